"""The endpoint as one service: settings, keys, limits, metrics, the application."""
