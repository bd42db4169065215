"""Reading what people and publishers write: topology files, config.json, weight files."""
