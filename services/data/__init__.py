"""Datasets: read, check, split, generate, render as prompts. Torch-free."""
