"""Search algorithms, behind one small interface."""

from mnist_sweep.search.base import Answer, Result, Search, Suggestion

__all__ = ["Answer", "Result", "Search", "Suggestion"]
