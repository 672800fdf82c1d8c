"""Reads, checks and splits data, without TensorFlow."""
