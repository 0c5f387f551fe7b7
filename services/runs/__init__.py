"""Runs: specs, events, the supervisor, targets. Torch-free."""
