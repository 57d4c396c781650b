"""docs/your_images.md, typed from top to bottom."""

import csv
import json
import re
import shlex

import pytest
import zygote
from conftest import CLASS_NAMES, write_network
from PIL import Image
from test_docs import ROOT, commands

pytest.importorskip('apache_beam', reason='NEEDS BEAM: make venv EXTRAS=beam')

DOCUMENT = ROOT / 'docs' / 'your_images.md'
CLASSES = ['flower', 'leaves', 'pagoda', 'sky', 'trees']


def typed(module, folder, monkeypatch, *more):
  """Runs the document's first command of a module."""
  (line,) = [
    line
    for line, _ in commands(DOCUMENT)
    if line.startswith(f'alexnet_jax.{module} ') and 'imagenet' not in line
  ]
  monkeypatch.chdir(folder)
  name, *arguments = shlex.split(line)
  # Nothing is downloaded.
  arguments = [
    a.replace('init_from=torchvision', 'init_from=runs/torchvision')
    for a in arguments
  ]
  done = zygote.start(*arguments, *more, module=name)
  assert done.wait() == 0, done.output
  return done.stdout


def width(path):
  with Image.open(path) as image:
    return image.size[0]


@pytest.mark.long
def test_from_photos_to_predictions(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  block = re.search(r'```python\n(.*?)```', DOCUMENT.read_text(), re.S)[1]
  exec(block, {})
  assert len(list(tmp_path.glob('photos/*/*.jpg'))) == 500
  # Photos as phones and cameras have them.
  with Image.open(tmp_path / 'photos/sky/000.jpg') as file:
    image = file.convert('RGB')
  exif = Image.Exif()
  exif[0x0112] = 6
  image.save(tmp_path / 'photos/sky/Été 1.webp', exif=exif)
  image.convert('RGBA').save(tmp_path / 'photos/trees/clear.png')
  for name in ('._1.jpg', 'Thumbs.db'):
    (tmp_path / 'photos/sky' / name).write_bytes(b'junk')
  printed = typed('data.resized', tmp_path, monkeypatch)
  assert 'train: 452 images' in printed or 'train: 451 images' in printed
  assert '5 classes, images upright' in printed
  assert 'Unknown size' not in printed

  write_network(tmp_path / 'runs/torchvision', CLASS_NAMES)
  printed = typed('main', tmp_path, monkeypatch, '--config.num_train_steps=3')
  assert 'fc8 is new: 5 classes, not 3' in printed
  run = tmp_path / 'runs/photos'
  results = json.loads((run / 'results.json').read_text())
  assert list(results['per_class']) == CLASSES
  number = results['num_examples']
  assert 50 <= number <= 52
  with (run / 'per_class.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['class'] for row in rows] == CLASSES
  assert sum(int(row['num_examples']) for row in rows) == number
  assert width(run / 'confusion.png') > 300

  printed = typed('figures', tmp_path, monkeypatch)
  mistakes = json.loads((run / 'mistakes.json').read_text())['mistakes']
  assert len(mistakes) == min(20, round(results['top1_error'] * number))
  assert width(run / 'mistakes.png') > 300

  (tmp_path / 'new_photos').mkdir()
  image.save(tmp_path / 'new_photos/1.jpg')
  (tmp_path / 'new_photos/broken.jpg').write_bytes(b'x')
  lines = typed('predict', tmp_path, monkeypatch).splitlines()
  header, good, bad = csv.reader(lines)
  assert header[:4] == ['path', 'error', 'class1', 'probability1']
  assert good[0] == 'new_photos/1.jpg'
  assert good[2] in CLASSES
  assert bad[1] == 'not an image'
