"""Pruning to a budget without training: what it may cost, how many units stay where, and the verb that does it."""
