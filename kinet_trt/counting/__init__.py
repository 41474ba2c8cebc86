"""Count image files and slides."""
