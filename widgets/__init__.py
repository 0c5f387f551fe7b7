"""What is drawn: data in, messages out, no I/O."""
