"""Everything about text: tokenizer, chat template, incremental decoding and stop strings."""
