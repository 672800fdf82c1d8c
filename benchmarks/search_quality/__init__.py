"""How soon searches find good settings, replayed on recorded learning curves: `python -m benchmarks.search_quality`."""
