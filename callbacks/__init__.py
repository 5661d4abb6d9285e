"""Callbacks, one effect each."""
