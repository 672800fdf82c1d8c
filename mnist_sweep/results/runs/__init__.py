"""Runs of sweeps, from MLflow to pandas frames."""
