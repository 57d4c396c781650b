"""Pictures: TFDS sets, preprocessing, and the stream of batches."""
