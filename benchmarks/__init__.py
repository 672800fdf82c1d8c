"""Measurements of this program and of others."""
