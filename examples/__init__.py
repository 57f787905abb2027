"""Programs that use trainfn as a stranger would: each folder is one, started with `python -m examples.<name>.demo`."""
