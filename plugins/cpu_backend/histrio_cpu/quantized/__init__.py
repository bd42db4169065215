"""Weights that other programs have quantized, handed over in blocks of the native library without loss."""
