"""Plans are made for a model and plugins that exist on paper only."""

from tests.plan.paper import engine, factory, plugins, write_model

__all__ = ["engine", "factory", "plugins", "write_model"]
