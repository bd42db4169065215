"""Stage backend on MLX: Apple Silicon through Metal, and Linux on the CPU."""
