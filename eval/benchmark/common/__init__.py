"""What benchmarks share: how they measure, PyTorch as their peer, and the cases of an accelerator."""
