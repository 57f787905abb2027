"""Rules around rules."""
