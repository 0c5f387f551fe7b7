"""Plans, quarantine, trash and undo: how something is removed so that nothing else is."""
