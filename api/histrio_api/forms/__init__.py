"""A form per generating endpoint: how its requests become prompts, and how its answers look."""
