"""From a recipe and training tokens to vectors: what recipes fit, the pools, the state on disk."""
