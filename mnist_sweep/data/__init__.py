"""Arrays and files of data, read and split without TensorFlow."""
