"""Trials per minute of this program, keras-tuner, Optuna and Ray Tune."""
