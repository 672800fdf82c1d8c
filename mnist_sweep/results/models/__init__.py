"""Trained models: from MLflow to files, predictions, a server and the registry."""
