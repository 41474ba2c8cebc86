"""Describe this machine and check the installation."""
