"""API keys: what a key may do, where keys are kept, and how much of its limits each one has used."""
