"""From a topology to a plan: every name is looked up, nothing is started."""
