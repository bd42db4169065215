"""GGUF: files that hold a whole model, read into what the rest of histrio reads of any model folder."""
