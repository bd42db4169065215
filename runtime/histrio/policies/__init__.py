"""The built-in policies, and the guard around those of plugins."""
