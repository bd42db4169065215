"""Child processes: starting them, and the main program that each of them runs."""
