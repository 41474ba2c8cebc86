"""Live: the loop that counts what a camera sees; a session's store, its registered fields, and what they sum up to."""
