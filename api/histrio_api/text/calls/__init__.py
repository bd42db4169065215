"""Calls of tools in the text of an answer: a file for each family of models."""
