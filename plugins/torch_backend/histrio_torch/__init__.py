"""Stage backend on PyTorch: CPU, CUDA and MPS."""
