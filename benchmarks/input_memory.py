"""Measures the memory that reading an epoch of ImageNet's size takes.

  python benchmarks/input_memory.py --data_dir=DIR [--dataset=imagenet2012] \
    [--split=train] [--examples=1281167] [--finish=host] [--minutes=60]

Links to the dataset's files repeat it until it has --examples images. One epoch
is read as in training, with the default buffers and without a cache. Prints the
resident memory 40 times, and a JSON line last: its maximum, and its growth
after the first tenth of the epoch.
"""

import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import input_pipeline as benchmark

from alexnet_jax.data import input_pipeline
from alexnet_jax.data.dataset import open_dataset

# docs/input.md promises these for images of 110 kB and batches of 128.
BOUND_GB = 3.0
GROWTH_GB = 0.2


def resident_gb() -> float:
  """Returns the resident memory of this process."""
  status = pathlib.Path('/proc/self/status').read_text()
  (line,) = [s for s in status.splitlines() if s.startswith('VmRSS')]
  return int(line.split()[1]) * 1024 / 1e9


def main() -> None:
  """Prints the memory over the epoch, and the JSON line."""
  parser = benchmark.make_parser(__doc__)
  parser.add_argument('--examples', type=int, default=1_281_167)
  parser.add_argument('--finish', default='host')
  parser.add_argument('--minutes', type=float, default=60)
  arguments = parser.parse_args()
  source = open_dataset(arguments.dataset, arguments.data_dir)
  with tempfile.TemporaryDirectory() as folder:
    dataset = benchmark.repeated(
      source, arguments.split, arguments.examples, folder
    )
    number = dataset.num_examples(arguments.split)
    before = resident_gb()
    print(f'{number} images in {len(dataset.files([arguments.split]))} files')
    print(f'before the first batch: {before:.2f} GB')
    batches = input_pipeline.train_batches(
      dataset,
      arguments.split,
      benchmark.PREPROCESSING,
      batch_size=128,
      seed=0,
      epoch=0,
      finish=arguments.finish,
    )
    start, done, curve = time.time(), 0, []
    for i, _ in enumerate(batches, 1):
      done = i * 128
      if i % (number // 128 // 40) == 0:
        curve.append(resident_gb())
        print(
          f'{done / number:6.1%} {curve[-1]:6.2f} GB '
          f'{done / (time.time() - start):6.0f} images/s',
          flush=True,
        )
      if time.time() - start > arguments.minutes * 60:
        break
  settled = curve[len(curve) // 10 :]
  result = {
    'memory_gb': round(max(curve), 2),
    'memory_growth_gb': round(settled[-1] - settled[0], 2),
    'share_of_epoch': round(done / number, 3),
  }
  targets = {'memory_gb': BOUND_GB, 'memory_growth_gb': GROWTH_GB}
  met = all(result[name] <= target for name, target in targets.items())
  print(json.dumps({'ratios': result, 'targets': targets, 'met': met}))


if __name__ == '__main__':
  main()
