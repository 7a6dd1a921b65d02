"""Pooled features and token activations of many sequences, on disk, resumable."""
