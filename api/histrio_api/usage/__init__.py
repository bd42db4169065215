"""What each key has used of each model on each day, in a file of SQLite."""
