"""Stage backend on CPUs without torch: each step is one call into a native library."""
