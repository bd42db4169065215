"""The machines of a cluster: their keys, how they join, and what runs on them."""
