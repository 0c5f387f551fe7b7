"""What notebooks import: the store and the registry as plain, synchronous calls."""
