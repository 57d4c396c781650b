"""Predictions, features and plots of image files."""

import csv
import io
import json
import os
import shutil

import conftest
import jax
import numpy as np
import pytest
from conftest import encode
from PIL import Image
from test_preprocess import eval_views

from alexnet_jax import predict, pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import imagenet
from alexnet_jax.data import images as image_files
from alexnet_jax.pretrained import inference

SYNSETS = conftest.SYNSETS


@pytest.fixture
def folder(tmp_path, photographs):
  """A folder with five images, one in a subfolder, and a text file."""
  images = tmp_path / 'images'
  (images / 'more').mkdir(parents=True)
  for i in range(4):
    cut = photographs[i % 2][40 * i : 40 * i + 120, :150]
    (images / f'{i}.JPG').write_bytes(encode(cut))
  (images / 'more' / 'z.png').write_bytes(encode(cut, 'L', 'PNG'))
  (images / 'notes.txt').write_text('not an image')
  return images


def expected(small_network, paths):
  network = pretrained.load(small_network)
  views = [
    eval_views(path.read_bytes(), network.preprocessing, 1)[0] for path in paths
  ]
  apply = jax.jit(network.model.apply, static_argnames='method')
  variables = {'params': network.params}
  images = np.stack(views)
  return (
    jax.nn.softmax(apply(variables, images)),
    apply(variables, images, method='features'),
  )


def test_json_and_features(small_network, folder, tmp_path, capsys):
  predict.main(
    [
      str(folder / '3.JPG'),
      str(folder),
      f'--workdir={small_network}',
      '--json',
      '--batch_size=4',  # Not a divisor of 6.
      f'--features={tmp_path / "out.npz"}',
    ]
  )
  results = json.loads(capsys.readouterr().out)
  names = ('3.JPG', '0.JPG', '1.JPG', '2.JPG', '3.JPG', 'more/z.png')
  paths = [folder / name for name in names]
  assert [result['path'] for result in results] == [str(p) for p in paths]
  probabilities, features = expected(small_network, paths)
  for result, row in zip(results, np.asarray(probabilities), strict=True):
    order = np.argsort(-row)[:5]
    assert [entry['label'] for entry in result['classes']] == list(order)
    np.testing.assert_allclose(
      [entry['probability'] for entry in result['classes']],
      row[order],
      rtol=1e-4,
    )
    for entry in result['classes']:
      synset = SYNSETS[entry['label']]
      assert entry['name'] == imagenet.synsets().get(synset, 'my own')
      assert entry.get('synset', 'my own') == synset
  with np.load(tmp_path / 'out.npz') as saved:
    assert list(saved['paths']) == [str(p) for p in paths]
    assert saved['features'].dtype == np.float32
    assert saved['features'].shape == (6, 4096)
    np.testing.assert_allclose(
      saved['features'], features, rtol=1e-4, atol=1e-4
    )


def test_features_of_layers(small_network, folder, tmp_path):
  arguments = [str(folder), f'--workdir={small_network}', '--batch_size=4']
  layers = ('conv3', 'conv1/linear', 'fc6')
  predict.main(
    [*arguments, f'--features={tmp_path / "out.npz"}',
     f'--layers={",".join(layers)}']
  )  # fmt: skip
  network = pretrained.load(small_network)
  paths = inference.find_images([str(folder)])
  images = np.stack(
    [
      eval_views(image_files.read(path), network.preprocessing, 1)[0]
      for path in paths
    ]
  )
  expected = jax.jit(network.model.apply, static_argnames=('method', 'layers'))(
    {'params': network.params}, images, method='features', layers=layers
  )
  with np.load(tmp_path / 'out.npz') as saved:
    assert set(saved) == {*layers, 'paths'}
    assert list(saved['paths']) == paths
    for name in layers:
      assert saved[name].dtype == np.float32
      np.testing.assert_allclose(
        saved[name], expected[name], rtol=1e-4, atol=1e-4
      )
  predict.main(
    [*arguments, f'--features={tmp_path / "out.npy"}', '--layers=pool5']
  )
  assert np.load(tmp_path / 'out.npy').shape == (5, 1, 1, 256)
  assert (tmp_path / 'out.txt').read_text().splitlines() == paths


def test_text_and_plot(small_network, folder, tmp_path, capsys):
  plot = tmp_path / 'plot.png'
  predict.main([str(folder), f'--workdir={small_network}', f'--plot={plot}'])
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 5 * 6
  assert lines[0] == str(folder / '0.JPG')
  assert '%  ' in lines[1]
  with Image.open(plot) as image:
    assert image.width > 600
    assert len(image.convert('RGB').getcolors(1 << 24)) > 1000
  assert not list(tmp_path.glob('.*'))


def test_classes_without_names():
  probabilities = np.array([0.1, 0.7, 0.2])
  found = inference.likeliest(probabilities, ())
  assert found[0] == {'label': 1, 'name': 'class 1', 'probability': 0.7}
  assert len(found) == 3


@pytest.mark.parametrize(
  ('arguments', 'match'),
  [
    (['absent.jpg'], "no image or folder 'absent.jpg'"),
    (['EMPTY'], 'no images in the folder'),
    (['NOTES'], 'none of 1 images can be read'),
    (['NOTES', '--on_error=stop'], 'cannot read .*notes.txt: not an image'),
    (['FOLDER', '--workdir=absent'], 'no checkpoint in .*absent'),
    (['FOLDER', '--step=7'], "no checkpoint '7'"),
    (['FOLDER', '--batch_size=0'], 'at least 1'),
    (['FOLDER', '--plot=absent/plot.png'], 'no folder for --plot'),
    (['FOLDER', '--plot=plot.jpg'], r'must end in \.png'),
    (['FOLDER/more/z.png', '--plot=FOLDER/more/z.png'], 'one of the images'),
    (['nosuch://bucket/a.jpg'], 'nosuch://bucket/a.jpg'),
    (['FOLDER', '--color=red'], '--color=red'),
    (
      ['FOLDER', '--layers=fc9'],
      "no layer 'fc9' in 'owt', which has conv1, lrn1",
    ),
    (['FOLDER', '--layers='], "no layer ''"),
    (
      ['FOLDER', '--layers=fc6', '--features='],
      '--layers=fc6 needs --features',
    ),
    (['FOLDER', '--layers=fc6,fc7', '--features=a.npy'], 'give FILE.npz'),
    ([], 'IMAGE'),
  ],
)
def test_refusals(small_network, folder, tmp_path, arguments, match):
  (tmp_path / 'empty').mkdir()
  names = {
    'EMPTY': str(tmp_path / 'empty'),
    'NOTES': str(folder / 'notes.txt'),
    'FOLDER': str(folder),
  }
  out = tmp_path / 'out.npz'
  for name, path in names.items():
    arguments = [argument.replace(name, path) for argument in arguments]
  with pytest.raises(UserError, match=match) as error:
    predict.main(
      [f'--workdir={small_network}', f'--features={out}', *arguments]
    )
  assert '\n' not in str(error.value)
  assert not out.exists()


def test_a_corrupt_image_is_named(small_network, folder, tmp_path):
  corrupt = folder / '2.JPG'
  corrupt.write_bytes(corrupt.read_bytes()[:200])
  with pytest.raises(UserError, match=r'cannot read .*2\.JPG: a damaged'):
    predict.main(
      [
        str(folder),
        '--on_error=stop',
        f'--workdir={small_network}',
        f'--plot={tmp_path / "plot.png"}',
      ]
    )
  assert not (tmp_path / 'plot.png').exists()


def test_unusual_files_and_names(small_network, folder, tmp_path, capfd):
  """All are read as a viewer shows them; the others are named."""
  (folder / 'more' / 'loop').symlink_to(folder)
  with Image.open(folder / '0.JPG') as image:
    rgb = image.convert('RGB')
  sideways = Image.Exif()
  sideways[0x0112] = 6  # Turned to the right when shown.
  rgb.rotate(90, expand=True).save(folder / 'sideways.png', exif=sideways)
  rgb.save(folder / 'upright.webp', lossless=True)
  rgb.save(folder / 'two\nlines\x1b[2J.tiff')
  os.link(folder / 'upright.webp', os.fsencode(folder) + b'/\xff.webp')
  for name in ('._0.JPG', '.hidden.png', 'Thumbs.db'):
    (folder / name).write_bytes(b'\0')
  (folder / '.ipynb_checkpoints').mkdir()
  (folder / '.ipynb_checkpoints' / '0.png').write_bytes(b'\0')
  (folder / 'gone.jpg').symlink_to(tmp_path / 'nowhere')
  (folder / 'phone.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0')
  narrow = np.zeros((6000, 1, 3), np.uint8)
  (folder / 'narrow.png').write_bytes(encode(narrow, form='PNG'))
  arguments = [str(folder), f'--workdir={small_network}', '--batch_size=3']

  predict.main([*arguments, '--jsonl'])
  out, err = capfd.readouterr()
  found = {}
  for line in out.splitlines():
    entry = json.loads(line)
    found[entry['path'].removeprefix(f'{folder}/')] = entry
  errors = {name: e['error'] for name, e in found.items() if 'error' in e}
  assert sorted(errors) == ['gone.jpg', 'narrow.png', 'phone.heic']
  assert errors['gone.jpg'] == 'No such file or directory'
  assert 'over 100 times the other' in errors['narrow.png']
  assert 'convert it to JPEG' in errors['phone.heic']
  assert len(found) == 12
  shown = [found[name]['classes'][0]['probability'] for name in (
    'sideways.png', 'upright.webp', 'two\nlines\x1b[2J.tiff', '\udcff.webp',
  )]  # fmt: skip
  np.testing.assert_allclose(shown, shown[0], rtol=1e-5)
  assert 'passed over 1 files' in err
  assert 'notes.txt' in err
  assert '9 images, 3 cannot be read, ' in err

  predict.main([*arguments, '--csv', f'--features={tmp_path / "out.npy"}'])
  rows = list(csv.reader(io.StringIO(capfd.readouterr().out)))
  assert rows[0][:4] == ['path', 'error', 'class1', 'probability1']
  assert len(rows) == 13
  assert any('two\\nlines\\x1b[2J.tiff' in row[0] for row in rows)
  assert np.load(tmp_path / 'out.npy').shape == (9, 4096)
  names = (tmp_path / 'out.txt').read_text().splitlines()
  assert names == [row[0] for row in rows[1:] if not row[1]]

  predict.main(arguments)
  out, _ = capfd.readouterr()
  assert '\x1b' not in out


@pytest.mark.parametrize(
  ('file', 'changes'),
  [
    ('config.json', {'model': 'x'}),
    ('config.json', {'model': {'name': 'torchvision', 'num_classes': '10'}}),
    ('config.json', {'model': {'name': 'vgg', 'num_classes': 10}}),
    ('preprocessing.json', {'crop_size': 0}),
    ('preprocessing.json', {'crop_size': 'a'}),
    ('preprocessing.json', {'resize': 'foo'}),
    ('preprocessing.json', {'mean': [1, 2]}),
    ('preprocessing.json', {'std': [0, 0, 0]}),
    ('preprocessing.json', {'class_names': [1, 2]}),
  ],
)
def test_a_corrupt_file_of_a_workdir_is_named(
  small_network, tmp_path, file, changes
):
  workdir = tmp_path / 'corrupt'
  shutil.copytree(small_network, workdir)
  saved = json.loads((workdir / file).read_text())
  (workdir / file).write_text(json.dumps({**saved, **changes}))
  with pytest.raises(UserError, match=file):
    pretrained.load(workdir)
