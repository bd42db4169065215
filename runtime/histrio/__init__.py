"""histrio: serve large language models on whatever machines a person has."""

__all__ = ["__version__"]

__version__ = "0.1.0"
