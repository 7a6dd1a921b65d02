"""Commands that make things: features and activations."""

import covjax  # noqa: F401  # first of all, so that a signal during the other imports ends the command with one line
