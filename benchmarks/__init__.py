"""Measurements of this program beside its peers."""
