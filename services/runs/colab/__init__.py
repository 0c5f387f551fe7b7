"""The target ``colab``: runs on a machine of Google Colab, had through its official command line."""
