"""The formats that come with histrio: a file for each family of models, with examples of what it writes."""
