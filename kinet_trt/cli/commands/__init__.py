"""The commands, one per module: its options, and what it prints."""
