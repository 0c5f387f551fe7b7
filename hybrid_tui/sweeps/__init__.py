"""Sweeps in the panel: a screen of its own, opened from the training screen and the palette."""
