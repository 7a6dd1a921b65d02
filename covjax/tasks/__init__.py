"""The built-in tasks: their configs, all of them under one protocol, and one report of all."""
