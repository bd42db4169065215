"""A stage's room: its slots, and one call of the backend per step."""
