"""One replica's life: sizes, start, failures, restarts."""
