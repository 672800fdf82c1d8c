"""How soon searches find good hyperparameters, replayed on recorded learning curves."""
