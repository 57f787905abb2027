"""Where records go: a file of JSON lines, the terminal, and what other programs show."""
