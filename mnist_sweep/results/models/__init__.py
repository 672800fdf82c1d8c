"""Uses trained models: exports them, predicts and serves with them, and registers them in MLflow."""
