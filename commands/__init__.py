"""What can be asked of a running service from the terminal: a module for each group of commands. Knows only HTTP."""
