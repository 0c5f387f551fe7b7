"""Sweeps: many short runs that look for good settings, asked for and told to Optuna, weak ones stopped early."""
