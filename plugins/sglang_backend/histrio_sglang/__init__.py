"""SGLang as a backend: ranges of layers, and whole engines."""
