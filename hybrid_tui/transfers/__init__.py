"""The parts of the Drive screen."""
