"""Writes a sweep's events to MLflow."""
