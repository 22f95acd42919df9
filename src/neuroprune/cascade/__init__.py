"""Nested networks that run as a cascade. Nothing is imported here: the runner must do without torch."""
