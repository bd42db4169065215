"""vLLM as an engine backend."""
