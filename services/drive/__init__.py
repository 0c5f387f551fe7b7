"""Stores: where model files and the registry live."""
