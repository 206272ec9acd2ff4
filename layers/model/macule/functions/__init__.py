"""The two functions: the table of routes of each, and its entry points; nothing else."""
