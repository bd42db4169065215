"""The room of kv: which sequence holds which blocks, and which blocks are shared."""
