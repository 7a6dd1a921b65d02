"""Commands that make things: features and activations."""
