"""Installed packages: what they take, who needs them, and the CUDA ones that a CPU box can not use."""
