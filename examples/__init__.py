"""Programs that use trainfn as a stranger would: each folder is one, run by `python -m examples.<name>.demo`."""
