"""One strategy per file; importing the folder fills the registry."""

from neuroprune.search.strategies import dp, evolution, nsga2, random_, rl, tpe, uniform

__all__ = ["dp", "evolution", "nsga2", "random_", "rl", "tpe", "uniform"]
