"""What a training loop needs that is no framework's: when to stop, what to count, watch, write down and keep."""
