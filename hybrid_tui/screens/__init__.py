"""One file per screen of the panel."""
