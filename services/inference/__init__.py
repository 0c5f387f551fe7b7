"""The torch-free side of inference: model references, the runtime worker's client, actions."""
