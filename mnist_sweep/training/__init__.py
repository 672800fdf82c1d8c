"""Trains and tests models; the only package that imports TensorFlow or JAX."""
