"""Helpers that know nothing of sweeps: errors, files, text, tables, time."""
