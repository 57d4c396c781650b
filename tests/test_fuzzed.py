"""What `make fuzz` found."""

import pytest
import tensorflow as tf
from conftest import store
from etils import epath

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import faults
from alexnet_jax.data.dataset import open_dataset


def test_a_record_without_an_image_is_skipped(tmp_path, image_files):
  """It raised an error of TensorFlow's where it should have been skipped."""
  dataset = open_dataset(store(image_files, tmp_path), str(tmp_path))
  path = tmp_path / 'tiny' / '1.0.0' / 'tiny-train.tfrecord-00001-of-00003'
  records = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
  example = tf.train.Example.FromString(records[2])
  del example.features.feature['image']
  with tf.io.TFRecordWriter(str(path)) as file:
    for i, record in enumerate(records):
      file.write(example.SerializeToString() if i == 2 else record)
  workdir = epath.Path(tmp_path)
  usable = faults.skip_faults(dataset, ['train'], workdir, 0.1)
  assert usable.skipped == {'train': {f'{path.name}__2'}}
  with pytest.raises(UserError, match='1 of 64 examples'):
    faults.skip_faults(dataset, ['train'], workdir, 0.01)
