"""Recipes fitted on training tokens, and the vectors that they make of sequences."""
