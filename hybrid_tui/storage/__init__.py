"""The views of the storage screen, one file each, and the clean-ups that they share."""
