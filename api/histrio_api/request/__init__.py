"""A body becomes what was asked for."""
