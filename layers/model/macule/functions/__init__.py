"""The two functions: for each a table of routes and its entry points."""
