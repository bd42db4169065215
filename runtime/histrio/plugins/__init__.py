"""Finding plugins, checking what they register, and calling their hooks."""
