"""What the operating system gives and tells: memory, time, marks that outlive a process."""
