"""What a model's score is made of: eigen-directions of its weights, and contributions of tokens."""
