"""Helpers that do not depend on sweeps: errors, files, text, tables, time."""
