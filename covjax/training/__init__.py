"""Training of autoencoders: index-shuffled batches, one donated step, checkpoints of everything, logs."""
