"""The torch side: loading, training, generation, evaluation. Alone in importing torch; runs in child processes."""
