"""Parts of the training screen: comparing runs, the keys that act on them, the form for a new one."""
