"""Feeds damaged files to every reader of files from elsewhere: `make fuzz`.

Each target reads a file, or a folder with it, as a command would. Whatever the
bytes, it must return, or raise a UserError, StorageError or an error that its
callers turn into one, within 20 seconds and 2 GB. libFuzzer (atheris) changes
seeds, which this file makes, guided by which lines of this package they reach;
JSON and the pickles inside of zip files are also changed as what they are.

  python tests/fuzz.py                 each target for ten minutes
  python tests/fuzz.py --seconds=60    each for a minute
  python tests/fuzz.py torch           one target
  python tests/fuzz.py torch FILE      one target, one file: to repeat a crash

What it found before is in tests/test_fuzzed.py. Writes to build/fuzz/TARGET.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import pathlib
import pickle
import random
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

HERE = pathlib.Path(__file__).parent
REPOSITORY = HERE.parent
LIMIT_SECONDS, LIMIT_MB = 20, 2048

Read = Callable[[bytes], Any]


def _weights(folder: pathlib.Path) -> Read:
  from alexnet_jax.pretrained import conversion

  def read(content: bytes) -> None:
    path = folder / 'weights'
    path.write_bytes(content)
    conversion.read(str(path))

  return read


def _tiny(shape_of=lambda shape: (1,) * len(shape)) -> dict[str, Any]:
  import numpy as np

  from alexnet_jax.model import ALEXNETS
  from alexnet_jax.pretrained.layouts import source_shapes

  shapes = source_shapes(ALEXNETS['caffe'], 10)
  return {
    layer: tuple(np.ones(shape_of(shape), np.float32) for shape in pair)
    for layer, pair in shapes.items()
  }


def _state() -> dict[str, Any]:
  import torch

  from alexnet_jax.pretrained import torchvision

  return {
    f'{torchvision.NAMES[layer]}.{kind}': torch.from_numpy(array)
    for layer, pair in _tiny().items()
    for kind, array in zip(('weight', 'bias'), pair, strict=True)
  }


def _torch_seeds() -> list[bytes]:
  import torch

  seeds = []
  for content in (
    _state(),
    {'state_dict': {f'module.{k}': v for k, v in _state().items()}},
    {'model': _state(), 'model_ema': _state(), 'epoch': 3},
  ):
    for new in (True, False):
      file = io.BytesIO()
      torch.save(content, file, _use_new_zipfile_serialization=new)
      seeds.append(file.getvalue())
  return seeds


def _safetensors_seeds() -> list[bytes]:
  import safetensors.torch

  return [safetensors.torch.save(_state(), {'format': 'pt'})]


def _caffe_seeds() -> list[bytes]:
  import caffe_encoder

  return [
    caffe_encoder.caffemodel('caffe', _tiny(), version) for version in (1, 2)
  ]


def _hdf5_seeds() -> list[bytes]:
  import h5py

  file = io.BytesIO()
  with h5py.File(file, 'w') as h5:
    for layer, arrays in _tiny().items():
      for i, array in enumerate(arrays):
        h5[f'data/{layer}/{i}'] = array
  return [file.getvalue()]


def _npy_seeds() -> list[bytes]:
  import numpy as np
  from converting import python2_npy

  content = {k: {'weights': w, 'biases': b} for k, (w, b) in _tiny().items()}
  file = io.BytesIO()
  np.save(file, np.array(content, object), allow_pickle=True)
  return [file.getvalue(), python2_npy(_tiny()), pickle.dumps(content, 2)]


def _text_seeds(name: str) -> list[bytes]:
  found = sorted((REPOSITORY / 'results').rglob(name))
  return [p.read_bytes()[:20_000] for p in found[:: max(1, len(found) // 8)]]


def _config(folder: pathlib.Path) -> Read:
  from etils import epath

  from alexnet_jax.cli.errors import UserError
  from alexnet_jax.config import of_workdir, saved, values
  from configs import digits

  def read(content: bytes) -> None:
    (folder / 'config.json').write_bytes(content)
    with contextlib.suppress(UserError):
      saved.check_workdir(digits.get_config(), epath.Path(folder), 10)
    values.validate(of_workdir.get_config(str(folder)), 'eval')

  return read


def _preprocessing(folder: pathlib.Path) -> Read:
  from etils import epath

  from alexnet_jax.data.preprocessing import read_preprocessing

  def read(content: bytes) -> None:
    (folder / 'preprocessing.json').write_bytes(content)
    read_preprocessing(epath.Path(folder)).mean_of_crops(10)

  return read


def _preprocessing_seeds() -> list[bytes]:
  import dataclasses

  import numpy as np
  from test_preprocess import PLAIN

  vectors = {'eigenvalues': np.ones(3), 'eigenvectors': np.eye(3)}
  lit = dataclasses.replace(PLAIN, lighting='sqrt_eigenvalue', **vectors)
  return [PLAIN.to_json().encode(), lit.to_json().encode()]


def _digests(folder: pathlib.Path) -> Read:
  from etils import epath

  from alexnet_jax.runs import digests, intact

  step = folder / 'checkpoints' / '3'
  (step / 'default').mkdir(parents=True)
  (step / 'default' / 'array').write_bytes(b'abc')

  def read(content: bytes) -> None:
    (step / 'digests.json').write_bytes(content)
    workdir = epath.Path(folder)
    intact.best_step(intact.validation_errors(workdir))
    digests.faults(epath.Path(step))
    intact.first_intact(workdir, [3])

  return read


def _digests_seeds() -> list[bytes]:
  from etils import epath

  from alexnet_jax.runs import digests

  seeds = []
  with tempfile.TemporaryDirectory() as name:
    step = pathlib.Path(name, '3')
    (step / 'default').mkdir(parents=True)
    (step / 'default' / 'array').write_bytes(b'abc')
    digests.seal(epath.Path(step), epath.Path(name, 'none'))
    seeds.append((step / 'digests.json').read_bytes())
    scores = {'num_examples': 8, 'loss': 1.0, 'top1_error': 0.5}
    digests.record_scores(epath.Path(step), scores)
    seeds.append((step / 'digests.json').read_bytes())
  return seeds


def _metrics(folder: pathlib.Path) -> Read:
  from etils import epath

  from alexnet_jax.runs.writer import Writer

  def read(content: bytes) -> None:
    (folder / 'metrics.jsonl').write_bytes(content)
    Writer(epath.Path(folder), first_step=40).close()
    for path in folder.glob('events.out*'):
      path.unlink()

  return read


def _report(name: str) -> Callable[[pathlib.Path], Read]:
  """The report of a foreign run, one of whose files is damaged."""

  def target(folder: pathlib.Path) -> Read:
    from alexnet_jax.report import experiments, page, runs, tables

    run = sorted((REPOSITORY / 'results').rglob('results.json'))[0].parent
    for path in run.iterdir():
      if path.suffix in ('.json', '.jsonl'):
        (folder / path.name).write_bytes(path.read_bytes())

    def read(content: bytes) -> None:
      (folder / name).write_bytes(content)
      found = experiments.group(runs.read_all(runs.find([str(folder)])))
      tables.markdown(found)
      if not zlib.crc32(content) % 16:  # Charts take half a second.
        page.html(found)

    return read

  return target


def _image(folder: pathlib.Path) -> Read:
  del folder
  import tensorflow as tf

  from alexnet_jax.data import decoding, images, sizes

  @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
  def crop(encoded):
    encoded = sizes.checked(encoded, 1 << 20)
    place = tf.constant([3, 5])
    return decoding.decode_crop(encoded, 'short_side', 64, place, 48)

  def read(content: bytes) -> None:
    for decode in (
      crop,
      lambda x: decoding.decode_square(sizes.checked(x, 1 << 20), 'warp', 32),
      lambda x: decoding.decode(tf.constant(images.standard(x.numpy()))),
    ):
      # Those that read many images continue, or name it.
      with contextlib.suppress(ValueError, tf.errors.InvalidArgumentError):
        decode(tf.constant(content))

  return read


def _image_seeds() -> list[bytes]:
  import numpy as np
  from PIL import Image

  pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
  image = Image.fromarray(pixels).resize((60, 40))
  seeds = []
  for kind, mode, options in (
    ('JPEG', 'RGB', {}), ('JPEG', 'L', {'progressive': True}),
    ('JPEG', 'CMYK', {}), ('PNG', 'RGB', {}), ('PNG', 'P', {}),
    ('GIF', 'P', {'save_all': True, 'append_images': [image.rotate(9)]}),
    ('BMP', 'RGB', {}), ('WEBP', 'RGBA', {}), ('TIFF', 'RGB', {}),
    ('PPM', 'RGB', {}),
  ):  # fmt: skip
    file = io.BytesIO()
    image.convert(mode).save(file, kind, **options)
    seeds.append(file.getvalue())
  return seeds


def _tfrecord(folder: pathlib.Path) -> Read:
  """A damaged record file, and one intact record file with a damaged record."""
  import numpy as np
  import tensorflow as tf
  from conftest import encode, store
  from etils import epath
  from test_preprocess import PLAIN

  from alexnet_jax.data import color_stats, faults, input_pipeline
  from alexnet_jax.data.dataset import open_dataset

  cut = np.zeros((40, 50, 3), np.uint8)
  name = store([(encode(cut), i % 3) for i in range(12)], folder, num_train=8)
  dataset = open_dataset(name, str(folder))
  [path, *_] = sorted((folder / 'tiny' / '1.0.0').glob('*train*'))
  record = next(iter(tf.data.TFRecordDataset(str(path)))).numpy()
  number = dataset.builder.info.splits['train'].shard_lengths[0]

  def read(content: bytes) -> None:
    if content[:1] == b'F':
      path.write_bytes(content[1:])
    else:
      with tf.io.TFRecordWriter(str(path)) as file:
        for i in range(number):
          file.write(record if i else content)
    uses = (
      lambda: list(
        input_pipeline.train_batches(
          dataset, 'train', PLAIN, batch_size=4, seed=0, epoch=0
        )
      ),
      lambda: faults.skip_faults(dataset, ['train'], epath.Path(folder), 0.9),
      lambda: color_stats.compute_color_stats(dataset, 'train', 'warp', 32),
    )
    uses[zlib.crc32(content) % len(uses)]()

  return read


def _tfrecord_seeds() -> list[bytes]:
  import numpy as np
  import tensorflow as tf
  from conftest import encode

  cut = np.zeros((40, 50, 3), np.uint8)
  feature = {
    'image': tf.train.Feature(
      bytes_list=tf.train.BytesList(value=[encode(cut)])
    ),
    'label': tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
  }
  example = tf.train.Example(features=tf.train.Features(feature=feature))
  record = example.SerializeToString()
  with tempfile.NamedTemporaryFile() as file:
    with tf.io.TFRecordWriter(file.name) as writer:
      for _ in range(8):
        writer.write(record)
    whole = pathlib.Path(file.name).read_bytes()
  return [record, b'F' + whole]


# Name: the function that makes the reader, and the one that makes the seeds.
TARGETS: dict[str, tuple[Callable[[pathlib.Path], Read], Callable]] = {
  'caffemodel': (_weights, _caffe_seeds),
  'hdf5': (_weights, _hdf5_seeds),
  'torch': (_weights, _torch_seeds),
  'safetensors': (_weights, _safetensors_seeds),
  'npy': (_weights, _npy_seeds),
  'config.json': (_config, lambda: _text_seeds('config.json')),
  'preprocessing.json': (_preprocessing, _preprocessing_seeds),
  'digests.json': (_digests, _digests_seeds),
  'metrics.jsonl': (_metrics, lambda: _text_seeds('metrics.jsonl')),
  'tfrecord': (_tfrecord, _tfrecord_seeds),
  'image': (_image, _image_seeds),
  'report-config': (
    _report('config.json'), lambda: _text_seeds('config.json'),
  ),
  'report-results': (
    _report('results.json'), lambda: _text_seeds('results.json'),
  ),
  'report-metrics': (
    _report('metrics.jsonl'), lambda: _text_seeds('metrics.jsonl'),
  ),
}  # fmt: skip


def _allowed(call: Callable[[], Any]) -> None:
  from alexnet_jax.cli.errors import StorageError, UserError

  said = ''
  try:
    call()
  except (UserError, StorageError) as error:
    said = str(error)
  assert '\n' not in said, said


_VALUES = (
  None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**400, -0.0, 1e308, 1e-320,
  float('nan'), float('inf'), '', 'a', 'digits', '../x', '\u202e', '\x00',
  '\ud800', [], {}, [[]], [1, 2, 3], [1, [2]], {'a': 1}, 'A' * 5000,
)  # fmt: skip


def mutate_json(content: Any, rng: random.Random) -> Any:
  """Returns JSON with one of its values, keys or lists changed."""
  places: list[tuple[Any, Any]] = []

  def walk(value):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
      places.append((value, key))
      if isinstance(inner, (dict, list)):
        walk(inner)

  content = copy.deepcopy(content)
  if not isinstance(content, (dict, list)) or not content:
    return rng.choice(_VALUES)
  walk(content)
  parent, key = rng.choice(places)
  action = rng.randrange(5)
  if action == 0:
    del parent[key]
  elif action == 1 and isinstance(parent, dict):
    parent[rng.choice(('a', '', 'model', 'step', '\x00'))] = parent.pop(key)
  elif action == 2 and isinstance(parent, list):
    parent[key:key] = [parent[key]] * rng.choice((1, 7))
  elif action == 3 and isinstance(parent[key], (int, float)):
    parent[key] *= rng.choice((-1, 1e9, 1e-9, 0, 2))
  else:
    other = rng.choice(places)
    parent[key] = copy.deepcopy(
      rng.choice((rng.choice(_VALUES), other[0][other[1]]))
    )
  return content


def mutate(data: bytes, size: int, seed: int, other: Any) -> bytes:
  """Changes a file: by its bytes, or as JSON, JSON lines or a zip file."""
  rng = random.Random(seed)
  if rng.random() < 0.5:
    try:
      lines = data.split(b'\n') if data.count(b'}\n') > 1 else [data]
      at = rng.randrange(len(lines))
      changed = mutate_json(json.loads(lines[at]), rng)
      lines[at] = json.dumps(changed).encode()
      return b'\n'.join(lines)[:size]
    except (ValueError, RecursionError, OverflowError):
      pass
    if data[:2] == b'PK':
      try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
          members = {i.filename: file.read(i) for i in file.infolist()}
        name = rng.choice(sorted(members))
        members[name] = other(members[name], len(members[name]) + 20)
        changed = io.BytesIO()
        with zipfile.ZipFile(changed, 'w') as file:
          for name, content in members.items():
            file.writestr(name, content)
        return changed.getvalue()[:size]
      except Exception:
        pass
  return other(data, size)


def run_target(name: str, arguments: list[str]) -> None:
  """Fuzzes one target in this process; returns only for single files."""
  import atheris

  sys.path[:0] = [str(HERE), str(REPOSITORY)]
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  with atheris.instrument_imports(include=['alexnet_jax', 'configs']):
    import conftest  # noqa: F401 # Sets the devices.

    make, _ = TARGETS[name]
    folder = pathlib.Path(tempfile.mkdtemp(dir='/dev/shm'))
    read = make(folder)

  def one(content: bytes) -> None:
    _allowed(lambda: read(content))

  atheris.Setup(
    [sys.argv[0], *arguments],
    one,
    custom_mutator=lambda data, size, seed: mutate(
      data, size, seed, atheris.Mutate
    ),
  )
  atheris.Fuzz()


def main() -> int:
  """Fuzzes; returns 1 if something else than an error was found."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('target', nargs='?', choices=[*TARGETS])
  parser.add_argument('file', nargs='?', help='a file to read once')
  parser.add_argument('--seconds', type=int, default=600, help='of each target')
  parser.add_argument('--in_process', action='store_true')
  flags, more = parser.parse_known_args()
  if flags.in_process:
    run_target(flags.target, [*([flags.file] if flags.file else []), *more])
    return 0
  failed, rows = [], []
  for name in [flags.target] if flags.target else TARGETS:
    folder = REPOSITORY / 'build' / 'fuzz' / name
    corpus = folder / 'corpus'
    corpus.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, name, '--in_process']
    if flags.file:
      return subprocess.run([*command, flags.file]).returncode
    sys.path[:0] = [str(HERE), str(REPOSITORY)]
    for i, seed in enumerate(TARGETS[name][1]()):
      (corpus / f'seed{i}').write_bytes(seed)
    began = time.monotonic()
    with (folder / 'log').open('w') as log:
      done = subprocess.run(
        [
          *command, f'-max_total_time={flags.seconds}',
          f'-artifact_prefix={folder}/',
          f'-timeout={LIMIT_SECONDS}',
          f'-rss_limit_mb={LIMIT_MB}',
          '-max_len=65536',
          '-print_final_stats=1',
          str(corpus),
        ],
        stdout=log, stderr=log,
      )  # fmt: skip
    text = (folder / 'log').read_text(errors='replace')
    number = text.partition('number_of_executed_units:')[2].split('\n')[0]
    rows.append(f'| {name} | {int(number or 0):,} | {done.returncode} |')
    seconds = time.monotonic() - began
    print(f'{name}: {seconds:.0f} s, {number.strip()} files', flush=True)
    if done.returncode:
      failed.append(name)
      print(text[-3000:], flush=True)
  print('\n'.join(['| reader | files | status |', '|---|---|---|', *rows]))
  return bool(failed)


if __name__ == '__main__':
  sys.exit(main())
