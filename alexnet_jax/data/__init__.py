"""TFDS datasets, preprocessing, and the stream of batches."""
