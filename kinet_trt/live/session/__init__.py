"""A session: its store, edits, registered fields, summary and report."""
