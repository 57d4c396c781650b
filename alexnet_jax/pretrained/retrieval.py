"""Features of a dataset, and the images whose features are nearest."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
import tensorflow as tf

from alexnet_jax.data import decoding, imagenet, input_pipeline, sizes
from alexnet_jax.data.classes import Classes
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.pretrained.inference import probabilities_and_features
from alexnet_jax.pretrained.loading import Pretrained


class Outputs(NamedTuple):
  """What a network says of a batch of images.

  Attributes:
    probabilities: float32 `[n, num_classes]`.
    features: fc7 after its ReLU, float32 `[n, 4096]`.
    labels: `[n]`, as outputs of the network.
  """

  probabilities: np.ndarray
  features: np.ndarray
  labels: np.ndarray


def outputs(
  network: Pretrained,
  dataset: Dataset,
  split: str,
  classes: Classes | None = None,
) -> Iterator[Outputs]:
  """Computes the outputs for every image of a split, in order.

  Args:
    network: the network, of a workdir.
    dataset: a prepared dataset.
    split: the name of one of its splits.
    classes: the network's and the dataset's; None: they are the same.

  Yields:
    Those of each batch.
  """
  step = jax.jit(functools.partial(probabilities_and_features, network.model))
  params = jax.device_put(network.params)
  size = min(100, dataset.num_examples(split))
  for batch in input_pipeline.eval_batches(
    dataset, split, network.preprocessing, batch_size=size, classes=classes
  ):
    is_image = batch['mask'] > 0  # The last batch is padded.
    probabilities, features = jax.device_get(step(params, batch['image'][:, 0]))
    yield Outputs(
      probabilities[is_image], features[is_image], batch['label'][is_image]
    )


def outputs_at(
  network: Pretrained, dataset: Dataset, split: str, positions: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns probabilities and features at some positions of a split."""
  rows: dict[int, tuple[np.ndarray, np.ndarray]] = {}
  done = 0
  for probabilities, features, _ in outputs(network, dataset, split):
    for i in set(positions) & set(range(done, done + len(features))):
      rows[i] = probabilities[i - done], features[i - done]
    done += len(features)
  probabilities, features = zip(*(rows[i] for i in positions), strict=True)
  return np.stack(probabilities), np.stack(features)


class Mistake(NamedTuple):
  """A misclassified image of a split.

  Attributes:
    confidence: the probability of the predicted class.
    position: of the image in the split.
    probabilities: of all classes, `[num_classes]`.
  """

  confidence: float
  position: int
  probabilities: np.ndarray


def mistakes(batches: Iterable[Outputs], number: int) -> list[Mistake]:
  """Returns the misclassified images of which a network is most confident.

  Args:
    batches: of `outputs`.
    number: how many to return, at most.
  """
  found: list[Mistake] = []
  done = 0
  for probabilities, _, labels in batches:
    confidences = probabilities.max(axis=1)
    for i in np.flatnonzero(probabilities.argmax(axis=1) != labels):
      found.append(
        Mistake(float(confidences[i]), done + int(i), probabilities[i])
      )
    done += len(labels)
    found = sorted(found, key=lambda m: (-m.confidence, m.position))[:number]
  return found


class Example(NamedTuple):
  """An image of a dataset.

  Attributes:
    image: its pixels, uint8 `[H, W, 3]`.
    key: the dataset's name for it.
    truth: the name of its class.
  """

  image: np.ndarray
  key: str
  truth: str


def examples_at(
  dataset: Dataset, split: str, positions: Iterable[int]
) -> dict[int, Example]:
  """Returns the examples at some positions of a split, by position."""
  wanted = tf.constant(sorted(set(positions)), tf.int64)
  elements = (
    dataset.read(split)
    .enumerate()
    .filter(lambda i, _: tf.reduce_any(wanted == i))
  )
  return {
    int(i): Example(
      decoding.decode(
        sizes.checked(example['image'], dataset.max_pixels)
      ).numpy(),
      example['key'].numpy().decode(),
      imagenet.words(dataset.class_names[int(example['label'])]),
    )
    for i, example in elements
  }


def nearest(
  queries: np.ndarray, batches: Iterator[np.ndarray], number: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the points with the smallest L2 distance to each query.

  Every distance is computed from the difference in float64, never from squares
  that cancel.

  Args:
    queries: `[Q, D]`.
    batches: the points, each batch `[n, D]`; one is in memory at a time.
    number: points to return, at most as many as there are.

  Returns:
    Positions among the points, and distances, each `[Q, number]`, nearest
    first. Ties go to the earlier point.

  Example:
    >>> points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    >>> positions, distances = nearest(np.zeros((1, 2)), iter([points]), 2)
    >>> positions.tolist(), distances.tolist()
    ([[0, 2]], [[0.0, 1.0]])
  """
  queries = np.asarray(queries, np.float64)
  positions = np.zeros((len(queries), 0), np.int64)
  distances = np.zeros((len(queries), 0))
  done = 0
  for points in batches:
    new = np.stack([np.linalg.norm(points - q, axis=1) for q in queries])
    here = np.broadcast_to(done + np.arange(len(points)), new.shape)
    distances = np.concatenate([distances, new], axis=1)
    positions = np.concatenate([positions, here], axis=1)
    order = np.argsort(distances, axis=1, kind='stable')[:, :number]
    distances = np.take_along_axis(distances, order, axis=1)
    positions = np.take_along_axis(positions, order, axis=1)
    done += len(points)
  return positions, distances
