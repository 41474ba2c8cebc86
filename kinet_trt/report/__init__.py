"""What the reports of sessions and of counted files share: the page, its style, and its drawings."""
