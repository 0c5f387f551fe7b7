"""Parts of the training screen: the keys that act on runs, on the chart and on marks; the dialogs they open."""
