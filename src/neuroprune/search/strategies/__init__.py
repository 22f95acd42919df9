"""One strategy per file; importing the folder fills the registry."""

from neuroprune.search.strategies import random_

__all__ = ["random_"]
