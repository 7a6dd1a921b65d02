"""covjax."""
