"""Drafters that come with histrio."""
