"""The paper's 256 x 256 images as a TFDS dataset, built with Apache Beam."""
