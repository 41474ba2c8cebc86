"""Count pictures and slides from files."""
