"""Live counting: acquisition, the session of a case, the web page."""
