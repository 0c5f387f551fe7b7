"""Base models: built-in names, local folders, GGUF files, Hugging Face ids. Torch-free."""
