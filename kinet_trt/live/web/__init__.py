"""The live page: server, controller, static files."""
