"""What plugins implement and what the core promises them; nothing here imports what uses it."""
