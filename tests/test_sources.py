"""Images in any form as a 256 x 256 dataset."""

import collections
import csv
import io
import json
import os
import tarfile

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from conftest import encode
from PIL import Image
from test_prepare import add

from alexnet_jax.cli.errors import UserError
from alexnet_jax.data import color_stats, decoding, imagenet, images
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.data.resized import pieces, sources
from alexnet_jax.data.resized.__main__ import main

pytest.importorskip('apache_beam', reason='NEEDS BEAM: make venv EXTRAS=beam')
pytestmark = [
  # Raised inside Beam 2.77, at import and when it runs.
  pytest.mark.filterwarnings('ignore::DeprecationWarning'),
  pytest.mark.filterwarnings('ignore::FutureWarning'),
  pytest.mark.filterwarnings('ignore::ResourceWarning'),
]

SYNSETS = 'n01440764', 'n02102040', 'n03000684'
PER_CLASS = 12


@pytest.fixture(scope='module')
def files(photographs):
  """Returns image files by class: photographs of Imagenette, if it is here.

  Otherwise JPEGs of several sizes, cut from scikit-learn's two photographs.
  """
  data_dir = os.environ.get('TFDS_DATA_DIR', '')
  if os.path.isdir(os.path.join(data_dir, 'imagenette')):
    imagenette = open_dataset('imagenette/320px-v2', data_dir)
    of_class = {name: [] for name in SYNSETS}
    for example in imagenette.read('train').as_numpy_iterator():
      name = imagenette.class_names[example['label']]
      if len(of_class.get(name, [0] * PER_CLASS)) < PER_CLASS:
        of_class[name].append(example['image'])
      if sum(map(len, of_class.values())) == PER_CLASS * len(SYNSETS):
        return of_class
  return {
    name: [
      encode(photographs[i % 2][10 * i : 10 * i + 150 + 9 * k, : 180 + 20 * i])
      for i in range(PER_CLASS)
    ]
    for k, name in enumerate(SYNSETS)
  }


def build(path, out, *more):
  main([f'--source={path}', '--name=photos', f'--data_dir={out}', *more])
  return open_dataset('photos_256', str(out))


def stored(made):
  """Returns the stored images of all splits, by class."""
  found = collections.defaultdict(list)
  for split in made.builder.info.splits:
    for example in made.read(split).as_numpy_iterator():
      found[made.class_names[example['label']]].append(example['image'])
  return {name: sorted(of_class) for name, of_class in found.items()}


@pytest.fixture(scope='module')
def folder(files, tmp_path_factory):
  root = tmp_path_factory.mktemp('photos')
  for name, of_class in files.items():
    (root / name).mkdir()
    for i, file in enumerate(of_class):
      (root / name / f'{name}_{i + 1}.JPEG').write_bytes(file)
  return root


@pytest.fixture(scope='module')
def made(folder, tmp_path_factory):
  return build(folder, tmp_path_factory.mktemp('out'))


def test_a_folder_of_classes(files, made):
  assert made.class_names == list(SYNSETS)
  assert made.is_square_jpeg(256)
  # A tenth of each class.
  assert made.num_examples('validation') == len(SYNSETS)
  assert made.num_examples('train') == len(SYNSETS) * (PER_CLASS - 1)
  expected = {
    name: sorted(
      tf.io.encode_jpeg(
        decoding.resize(decoding.decode(file), 'short_side', 256), quality=95
      ).numpy()
      for file in of_class
    )
    for name, of_class in files.items()
  }
  assert stored(made) == expected
  labels = [int(e['label']) for e in made.read('train')]
  assert labels != sorted(labels)
  kept = color_stats.compute_color_stats(made, 'train', 'short_side', 256)
  sums = color_stats.ColorSums.zero(256)
  for example in made.read('train').as_numpy_iterator():
    sums = sums.add(tf.io.decode_jpeg(example['image']).numpy()[None])
  for a, b in zip(kept, sums.summarize(), strict=True):
    np.testing.assert_allclose(a, b)


def write_tars(root, files):
  with tarfile.open(root / 'ILSVRC2012_img_train.tar', 'w') as train:
    for name, of_class in files.items():
      inner = io.BytesIO()
      with tarfile.open(fileobj=inner, mode='w') as tar:
        for i, file in enumerate(of_class[:-1]):
          add(tar, f'{name}_{i + 1}.JPEG', file)
      add(train, f'{name}.tar', inner.getvalue())
  # The numbers of images of these classes.
  known = (
    tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt')
    .read_text()
    .split()
  )
  with tarfile.open(root / 'ILSVRC2012_img_val.tar', 'w') as tar:
    for name, of_class in files.items():
      number = known.index(name) + 1
      add(tar, f'ILSVRC2012_val_{number:08}.JPEG', of_class[-1])


def write_kaggle(root, files):
  data = root / 'ILSVRC/Data/CLS-LOC'
  (data / 'val').mkdir(parents=True)
  rows = []
  for k, (name, of_class) in enumerate(files.items()):
    (data / 'train' / name).mkdir(parents=True)
    for i, file in enumerate(of_class[:-1]):
      (data / 'train' / name / f'{name}_{i + 1}.JPEG').write_bytes(file)
    image = f'ILSVRC2012_val_{k + 1:08}'
    (data / 'val' / f'{image}.JPEG').write_bytes(of_class[-1])
    rows.append([image, f'{name} 1 2 3 4 {name} 5 6 7 8'])
  with (root / 'LOC_val_solution.csv').open('w', newline='') as file:
    csv.writer(file).writerows([['ImageId', 'PredictionString'], *rows])


def write_parquet(root, files, metadata=True):
  import pyarrow as pa
  from pyarrow import parquet

  names = list(files)
  rows = [(label, f) for label, name in enumerate(names) for f in files[name]]
  for split, part in (('train', rows[::2]), ('validation', rows[1::2])):
    table = pa.table(
      {
        'image': [{'bytes': file, 'path': None} for _, file in part],
        'label': [label for label, _ in part],
      }
    )
    if metadata:
      content = {'info': {'features': {'label': {'names': names}}}}
      table = table.replace_schema_metadata(
        {'huggingface': json.dumps(content)}
      )
    parquet.write_table(
      table, root / f'{split}-00000-of-00001.parquet', row_group_size=5
    )
  test = pa.table({'image': [{'bytes': b'', 'path': None}], 'label': [-1]})
  parquet.write_table(test, root / 'test-00000-of-00001.parquet')


def write_webdataset(root, files):
  for split in ('train', 'val'):
    with tarfile.open(root / f'photos-{split}-0000.tar', 'w') as tar:
      for label, of_class in enumerate(files.values()):
        part = of_class[:-1] if split == 'train' else of_class[-1:]
        for i, file in enumerate(part):
          add(tar, f'{label}_{i:04}.jpg', file)
          add(tar, f'{label}_{i:04}.cls', str(label).encode())
  (root / 'names.txt').write_text('\n'.join(files))


@pytest.mark.parametrize(
  'write', [write_tars, write_kaggle, write_parquet, write_webdataset]
)
def test_the_same_images_in_another_form(files, made, tmp_path, write, capsys):
  root = tmp_path / 'source'
  root.mkdir()
  write(root, files)
  more = [f'--class_names={root}/names.txt'] * (write is write_webdataset)
  other = build(root, tmp_path / 'out', *more)
  assert stored(other) == stored(made)
  assert set(other.builder.info.splits) == {'train', 'validation'}
  if write in (write_tars, write_kaggle):
    assert tuple(other.class_names) == tuple(imagenet.synsets())
  build(root, tmp_path / 'out', *more)
  assert 'exists already' in capsys.readouterr().out


def test_odd_files(files, tmp_path, capsys):
  """Odd images are stored as a viewer shows them; others are named."""
  root = tmp_path / 'photos'
  for name in ('a', 'b'):
    (root / 'train' / name).mkdir(parents=True)
    (root / 'val' / name).mkdir(parents=True)
    for i, file in enumerate(files[SYNSETS[0]][:3]):
      (root / 'train' / name / f'{i}.jpg').write_bytes(file)
    (root / 'val' / name / 'x.jpg').write_bytes(file)
  upright = Image.open(io.BytesIO(files[SYNSETS[1]][0])).convert('RGB')
  sideways = Image.Exif()
  sideways[0x0112] = 6
  a = root / 'train' / 'a'
  upright.rotate(90, expand=True).save(a / 'side.png', exif=sideways)
  upright.save(a / 'é.webp', lossless=True)
  upright.save(a / 'page.tiff')
  upright.save(a / 'opaque.png')
  expected = upright.convert('RGBA')
  expected.putalpha(0)
  expected.save(a / 'clear.png')
  gray = np.full((300, 300), 40_000, np.uint16)
  Image.fromarray(gray).save(a / 'gray16.png')
  for junk in ('._0.jpg', 'Thumbs.db', '.DS_Store'):
    (a / junk).write_bytes(b'junk')
  (a / 'notes.txt').write_text('not an image')
  (a / 'phone.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0')
  (a / 'cut.jpg').write_bytes(files[SYNSETS[0]][0][:2000])
  (a / 'gone.jpg').symlink_to(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='--on_error=skip') as error:
    build(root, tmp_path / 'out')
  message = str(error.value)
  assert message.startswith('4 files cannot be read: a/cut.jpg: cannot be dec')
  assert '\n' not in message
  assert '[while' not in message
  assert not list((tmp_path / 'out').glob('photos_256/1.0.0'))
  made = build(root, tmp_path / 'out', '--on_error=skip')
  out = capsys.readouterr().out
  assert '4 skipped' in out
  assert 'a/notes.txt: not an image' in out
  assert 'a/phone.heic: HEIC' in out
  assert 'a/cut.jpg: cannot be decoded: jpeg::Uncompress failed' in out
  assert 'a/gone.jpg: No such file' in out
  assert 'train: 3 to 9 images a class' in out
  feature = {'file_name': tf.io.FixedLenFeature([], tf.string)}
  found = {}
  for record in made.records('train'):
    name = tf.io.parse_single_example(record, feature)['file_name'].numpy()
    found[name.decode()] = made.parse(record)['image'].numpy()
  same = ['a/side.png', 'a/é.webp', 'a/page.tiff', 'a/opaque.png']
  assert len({found[name] for name in same}) == 1
  for name, value in (('a/clear.png', 255), ('a/gray16.png', 156)):
    pixels = tf.io.decode_jpeg(found[name]).numpy()
    assert np.abs(pixels.astype(int) - value).max() <= 1


@pytest.mark.parametrize(
  ('change', 'match'),
  [
    (lambda r: [p.unlink() for p in r.rglob('*.JPEG')], 'no image to train on'),
    (
      lambda r: (
        [p.rename(r / p.name) for p in r.rglob('*.JPEG')]
        and [(r / name).rmdir() for name in SYNSETS]
      ),
      'images but no folders of classes',
    ),
    (
      lambda r: [
        (r / name).rename(r.parent / f'away{name}') for name in SYNSETS[1:]
      ],
      'one class',
    ),
    (
      lambda r: [p.unlink() for p in list((r / SYNSETS[0]).iterdir())[1:]],
      'has one image',
    ),
    (lambda r: (r / SYNSETS[0]).rename(r / SYNSETS[1].upper()), 'case alone'),
    (
      lambda r: [
        (r / 'val' / name).mkdir(parents=True)
        or (r / name).rename((r / 'train').joinpath(name))
        for name in SYNSETS
        if (r / 'train').mkdir(exist_ok=True) is None
      ],
      'no images of the split validation',
    ),
  ],
)
def test_folders_that_cannot_be_used(files, tmp_path, change, match):
  root = tmp_path / 'photos'
  for name in SYNSETS:
    (root / name).mkdir(parents=True)
    for i in range(2):
      (root / name / f'{i}.JPEG').write_bytes(files[name][i])
  change(root)
  with pytest.raises(UserError, match=match) as error:
    build(root, tmp_path / 'out')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'out').exists()


def cut(path, share=0.5):
  path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


@pytest.mark.parametrize(
  ('write', 'change', 'match'),
  [
    (write_tars, lambda r: cut(r / 'ILSVRC2012_img_train.tar'), 'cut off'),
    (write_tars, lambda r: cut(r / 'ILSVRC2012_img_val.tar'), 'cut off'),
    (
      write_tars,
      lambda r: (r / 'ILSVRC2012_img_val.tar').unlink(),
      'no ILSVRC2012_img_val.tar',
    ),
    (
      write_kaggle,
      lambda r: (
        r / 'ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG'
      ).unlink(),
      'names 1 files that are not in',
    ),
    (
      write_kaggle,
      lambda r: (r / 'ILSVRC/Data/CLS-LOC/val/x.JPEG').write_bytes(b''),
      '1 files that .* does not name',
    ),
    (
      write_kaggle,
      lambda r: (r / 'LOC_val_solution.csv').write_text('a,b\n1,2\n'),
      'needs the columns ImageId and PredictionString',
    ),
    (
      write_parquet,
      lambda r: [p.unlink() for p in r.glob('[tv]*ai*.parquet')],
      'no images of the split train',
    ),
    (
      write_kaggle,
      lambda r: (r / 'LOC_val_solution.csv').unlink(),
      'LOC_val_solution.csv is missing',
    ),
    (
      write_parquet,
      lambda r: cut(r / 'train-00000-of-00001.parquet'),
      'cut off or corrupt',
    ),
    (write_webdataset, lambda r: cut(r / 'photos-train-0000.tar'), 'cut off'),
  ],
)
def test_files_that_are_damaged_or_missing(
  files, tmp_path, write, change, match
):
  root = tmp_path / 'source'
  root.mkdir()
  write(root, files)
  change(root)
  with pytest.raises(UserError, match=match) as error:
    build(root, tmp_path / 'out')
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'out').exists()


def test_a_parquet_file_without_labels(files, tmp_path):
  import pyarrow as pa
  from pyarrow import parquet

  root = tmp_path / 'source'
  root.mkdir()
  table = pa.table({'image': [files[SYNSETS[0]][0]]})
  parquet.write_table(table, root / 'train.parquet')
  with pytest.raises(UserError, match='columns image: image and label'):
    build(root, tmp_path / 'out')


def test_names(folder, made, files, tmp_path):
  out = made.data_dir
  for name in ('Photos', '1a', 'a-b', 'photos_256', 'a/b'):
    with pytest.raises(UserError, match='must be lower-case'):
      main([f'--source={folder}', f'--name={name}', f'--data_dir={tmp_path}'])
  with pytest.raises(UserError, match='name its dataset with --name'):
    main([f'--source={folder}'])
  with pytest.raises(UserError, match='there is no folder tiny'):
    main(['--source=tiny', '--name=photos'])
  other = tmp_path / 'other'
  for name in ('a', 'b'):
    (other / name).mkdir(parents=True)
    for i in range(2):
      (other / name / f'{i}.jpg').write_bytes(files[SYNSETS[0]][i])
  before = sorted(path for path in os.walk(out))
  with pytest.raises(UserError, match='holds another dataset of that name'):
    build(other, out)
  assert sorted(path for path in os.walk(out)) == before


def test_the_split_and_order_do_not_depend_on_other_images(files, tmp_path):
  """A hash of an image's name decides, in pieces of any size."""
  few = sources.Source(
    '', ('a', 'b'),
    {'train': [sources.Image(f'{i}.jpg', i % 2, '') for i in range(60)]}, True,
  )  # fmt: skip
  more = few._replace(
    splits={'train': few.splits['train'] + [
      sources.Image(f'{i}.jpg', i % 2, '') for i in range(60, 70)
    ]}
  )  # fmt: skip
  in_few, in_more = (
    {i.name for i in sources._with_validation(s, 0.2).splits['validation']}
    for s in (few, more)
  )
  assert len(in_few) == 12
  assert len(in_few & in_more) >= 10
  assert {i.label for i in few.splits['train'] if i.name in in_few} == {0, 1}
  for count in (1, 3, 1000):
    assert {pieces.file_of(p, count) for p in (0, 2**64 - 1)} == {0, count - 1}


def test_a_jpeg_is_kept_as_it_is(files):
  file = files[SYNSETS[0]][0]
  assert images.standard(file) is file
