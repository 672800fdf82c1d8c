"""Trials per minute of this program beside stock keras-tuner, Optuna and Ray Tune."""
