"""Build engines and package models for a server."""
