"""Measures the host's input pipelines in images/s, taking turns in one run.

  python benchmarks/input_pipeline.py --data_dir=DIR --dataset=imagenet2012 \
    --split=train [--batch_size=128] [--rounds=3] [--seconds=8]

All pipelines read the same images of a TFDS dataset:

  naive    what one writes first: decode_jpeg, tf.image.resize of the short side
           to 256, random_crop, random_flip_left_right, minus the mean image,
           plus lighting, float32, AUTOTUNE, the same batch and prefetch
  PIL      torchvision's transforms (Resize, RandomCrop, RandomHorizontalFlip,
           ToTensor, Normalize), one process a core, batches not collected
  full     this project from the original files, data.finish=host
  full, d  the same with data.finish=device
  256, d   this project from the 256 x 256 dataset, which is built first, with
           data.finish=device

A small dataset is repeated by links to its files. CPU times are the process's,
in user and system mode, on all its threads. The last line is a JSON object; a
ratio is the median of the ratios of each round.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

# Before TensorFlow starts.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import turns
from PIL import Image

from alexnet_jax.data import decoding, input_pipeline
from alexnet_jax.data.dataset import Dataset, open_dataset
from alexnet_jax.data.preprocessing import Preprocessing
from alexnet_jax.data.resized.builder import build, resized_builder

CROP = 227
EIGENVALUES = np.array([121.8, 37.1, 19.7]) ** 2
EIGENVECTORS = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
# The paper's preprocessing.
PREPROCESSING = Preprocessing(
  dataset=None,
  class_names=(),
  resize='short_side',
  resize_size=256,
  crop_size=CROP,
  mean=np.full((256, 256, 3), 110.0),
  mean_crop='center',
  std=np.ones(3),
  flip=True,
  lighting='sqrt_eigenvalue',
  lighting_std=0.1,
  eigenvalues=EIGENVALUES,
  eigenvectors=EIGENVECTORS,
)
# Ratios of images/s, and of images per CPU-second.
TARGETS = {
  'input_full_vs_naive': 1.5,
  'input_full_vs_naive_cpu': 1.2,
  'input_256_vs_naive': 5.0,
  'input_256_vs_naive_cpu': 5.0,
}


def repeated(dataset: Dataset, split: str, least: int, folder: str) -> Dataset:
  """Repeats a split by links to its files until it has `least` examples."""
  source = pathlib.Path(dataset.builder.data_path)
  info = json.loads((source / 'dataset_info.json').read_text())
  (of_split,) = [s for s in info['splits'] if s['name'] == split]
  lengths = of_split['shardLengths']
  times = -(-least // sum(map(int, lengths)))
  target = pathlib.Path(folder) / info['name'] / info['version']
  target.mkdir(parents=True)
  for path in source.iterdir():
    if path.is_file() and '.tfrecord' not in path.name:
      (target / path.name).write_bytes(path.read_bytes())
  files = dataset.files([split])
  number = len(files) * times
  for i in range(number):
    name = f'{info["name"]}-{split}.tfrecord-{i:05}-of-{number:05}'
    (target / name).symlink_to(os.path.abspath(files[i % len(files)]))
  of_split['shardLengths'] = lengths * times
  of_split['numBytes'] = str(int(of_split['numBytes']) * times)
  info['splits'] = [of_split]
  (target / 'dataset_info.json').write_text(json.dumps(info))
  return open_dataset(f'{info["name"]}:{info["version"]}', folder)


def naive_batches(dataset: Dataset, split: str, batch_size: int) -> Iterator:
  """Yields batches of the pipeline that one writes first, without end."""
  mean = tf.constant(np.full((CROP, CROP, 3), 110), tf.float32)
  components = tf.constant(EIGENVECTORS * np.sqrt(EIGENVALUES), tf.float32)

  def view(example):
    image = tf.io.decode_jpeg(example[dataset.image_key], channels=3)
    shape = tf.shape(image)[:2]
    image = tf.image.resize(image, shape * 256 // tf.reduce_min(shape))
    image = tf.image.random_crop(image, [CROP, CROP, 3])
    image = tf.image.random_flip_left_right(image)
    alpha = tf.random.normal([3], stddev=0.1)
    image = image - mean + tf.linalg.matvec(components, alpha)
    return {'image': image, 'label': example[dataset.label_key]}

  examples = dataset.builder.as_dataset(
    split=split,
    shuffle_files=True,
    decoders={dataset.image_key: tfds.decode.SkipDecoding()},
    read_config=tfds.ReadConfig(try_autocache=False),
  )
  return (
    examples.shuffle(1024)
    .repeat()
    .map(view, num_parallel_calls=tf.data.AUTOTUNE)
    .batch(batch_size, drop_remainder=True)
    .prefetch(input_pipeline.PREFETCH)
    .as_numpy_iterator()
  )


def our_batches(
  dataset: Dataset, split: str, batch_size: int, finish: str
) -> Iterator:
  """Yields this project's batches with the paper's preprocessing."""
  epoch = 0
  while True:
    yield from input_pipeline.train_batches(
      dataset,
      split,
      PREPROCESSING,
      batch_size=batch_size,
      seed=0,
      epoch=epoch,
      shuffle_buffer=1024,
      finish=finish,
    )
    epoch += 1


def _pil_views(files: list[bytes]) -> tuple[int, float]:
  """Returns the number of views made, and the CPU-seconds that they took."""
  start = time.process_time()
  rng = np.random.default_rng()
  mean = np.array([0.485, 0.456, 0.406], np.float32)
  std = np.array([0.229, 0.224, 0.225], np.float32)
  for encoded in files:
    image = Image.open(io.BytesIO(encoded)).convert('RGB')
    width, height = image.size
    short = min(image.size)
    image = image.resize(
      (width * 256 // short, height * 256 // short), Image.Resampling.BILINEAR
    )
    left, top = (rng.integers(0, side - CROP + 1) for side in image.size)
    image = image.crop((left, top, left + CROP, top + CROP))
    if rng.integers(2):
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
  return len(files), time.process_time() - start


def measure_pil(
  pool, files: list[bytes], seconds: float
) -> tuple[float, float]:
  """Returns images/s and CPU-seconds an image, with one process a core."""
  chunks = [files[i : i + 16] for i in range(0, len(files), 16)]
  done, used, start = 0, 0.0, time.perf_counter()
  while time.perf_counter() < start + seconds:
    for n, cpu in pool.imap_unordered(_pil_views, chunks):
      done, used = done + n, used + cpu
  return done / (time.perf_counter() - start), used / done


def _cpu() -> float:
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


def measure(
  batches: Iterator, batch_size: int, seconds: float
) -> tuple[float, float]:
  """Returns images/s and CPU-seconds an image, after a third of the time."""
  begin = time.perf_counter()
  while time.perf_counter() < begin + seconds / 3:
    next(batches)
  done, used, start = 0, _cpu(), time.perf_counter()
  while time.perf_counter() < start + seconds:
    next(batches)
    done += batch_size
  elapsed, used = time.perf_counter() - start, _cpu() - used
  return done / elapsed, used / done


@dataclasses.dataclass
class Case:
  """A pipeline and its measurements: images/s, and CPU-seconds an image."""

  name: str
  run: Callable[[], tuple[float, float]]
  wall: list[float] = dataclasses.field(default_factory=list)
  cpu: list[float] = dataclasses.field(default_factory=list)


def compare(cases: list[Case], rounds: int) -> None:
  """Measures the pipelines in turns and prints a table."""
  for _ in range(rounds):
    for case in cases:
      wall, cpu = case.run()
      case.wall.append(wall)
      case.cpu.append(cpu)
      time.sleep(0.5)  # Until unused prefetched batches are dropped.
  print(
    f'{"":10}{"images/s":>10}{"vs naive":>10}{"ms of CPU":>12}{"vs naive":>10}'
  )
  for case in cases:
    wall, cpu = ratio(case, cases[0])
    print(
      f'{case.name:10}{statistics.median(case.wall):10.0f}{wall:10.2f}'
      f'{statistics.median(case.cpu) * 1e3:12.3f}{cpu:10.2f}'
    )


def ratio(case: Case, naive: Case) -> tuple[float, float]:
  """Returns how many times naive's images/s and images per CPU-second."""
  walls = [a / b for a, b in zip(case.wall, naive.wall, strict=True)]
  cpus = [b / a for a, b in zip(case.cpu, naive.cpu, strict=True)]
  return statistics.median(walls), statistics.median(cpus)


def distances(files: list[bytes]) -> tuple[float, float]:
  """Returns mean differences from crops of `decoding.decode_square`.

  Returns:
    In grey levels: of this project's crops, and of `tf.image.resize` without
    antialiasing.
  """
  rng = np.random.default_rng(0)
  ours, plain = [], []
  for encoded in files[:100]:
    top, left = rng.integers(0, 256 - CROP + 1, 2)
    image = decoding.decode(encoded)
    exact = decoding.resize(image, 'short_side', 256).numpy().astype(float)
    exact = exact[top : top + CROP, left : left + CROP]
    part = decoding.decode_crop(
      encoded, 'short_side', 256, tf.constant([top, left], tf.int32), CROP
    )
    ours.append(np.abs(part.numpy() - exact).mean())
    shape = tf.shape(image)[:2]
    whole = tf.image.resize(image, shape * 256 // tf.reduce_min(shape))
    square = decoding.center_crop(whole, 256).numpy()
    square = square[top : top + CROP, left : left + CROP]
    plain.append(np.abs(square - exact).mean())
  return float(np.mean(ours)), float(np.mean(plain))


def make_parser(doc: str | None) -> argparse.ArgumentParser:
  """Returns a parser with the flags that choose a dataset."""
  parser = argparse.ArgumentParser(
    description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--data_dir')
  parser.add_argument('--dataset', default='imagenet2012')
  parser.add_argument('--split', default='train')
  return parser


def main() -> None:
  """Prints a table and the JSON line."""
  parser = make_parser(__doc__)
  parser.add_argument('--batch_size', type=int, default=128)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--seconds', type=float, default=8)
  arguments = parser.parse_args()
  split, batch_size = arguments.split, arguments.batch_size
  source = open_dataset(arguments.dataset, arguments.data_dir)
  with (
    tempfile.TemporaryDirectory() as folder,
    # Before TensorFlow's threads start.
    multiprocessing.get_context('spawn').Pool(os.cpu_count()) as pool,
  ):
    with contextlib.redirect_stdout(sys.stderr):
      small = build(resized_builder(source, f'{folder}/256'))
    least = 2000 * batch_size
    full = repeated(source, split, least, f'{folder}/repeated')
    small = repeated(small, split, least, f'{folder}/repeated')
    files = [e['image'] for e in source.read(split).take(400)
             .as_numpy_iterator()]  # fmt: skip
    print(
      f'{source.full_name} {split}: {source.num_examples(split)} images, '
      f'{np.mean([len(file) for file in files]) / 1e3:.0f} kB each; crops of '
      f'{CROP}, batch {batch_size}, {os.cpu_count()} cores, TensorFlow '
      f'{tf.__version__}'
    )
    print(
      'grey levels between crops and crops of the whole decoded image: {:.2f}; '
      'for tf.image.resize without antialiasing: {:.2f}'.format(
        *distances(files)
      )
    )

    def of(batches):
      return measure(batches, batch_size, arguments.seconds)

    cases = [
      Case('naive', lambda: of(naive_batches(full, split, batch_size))),
      Case('PIL', lambda: measure_pil(pool, files, arguments.seconds)),
      Case('full', lambda: of(our_batches(full, split, batch_size, 'host'))),
      Case(
        'full, d', lambda: of(our_batches(full, split, batch_size, 'device'))
      ),
      Case(
        '256, d', lambda: of(our_batches(small, split, batch_size, 'device'))
      ),
    ]
    compare(cases, arguments.rounds)
  ratios = {}
  # The targets are for 'device', which sends a quarter of the bytes; the ratio
  # of 'host' is reported without a target.
  for name, case in (
    ('full', cases[3]),
    ('256', cases[4]),
    ('full_host', cases[2]),
  ):
    wall, cpu = ratio(case, cases[0])
    ratios[f'input_{name}_vs_naive'] = wall
    ratios[f'input_{name}_vs_naive_cpu'] = cpu
  turns.print_result(ratios, TARGETS, **turns.machine('tensorflow-cpu'))


if __name__ == '__main__':
  main()
