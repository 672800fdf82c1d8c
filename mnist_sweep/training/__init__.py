"""Training: data, models, fitting; the only code that imports TensorFlow or JAX."""
