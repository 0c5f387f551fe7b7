"""The target "notebook": a person opens the notebook in Colab or Kaggle, and the store carries everything between."""
