"""Files on their way between this box and the store: planned, queued, run in the background, watched."""
