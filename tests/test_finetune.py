"""configs/finetune.py: fields from init_from and from the dataset."""

import json
import types

import numpy as np
import pytest
from chaos import results
from conftest import CLASS_NAMES
from etils import epath
from test_main import run

from alexnet_jax import pretrained
from alexnet_jax.cli.errors import UserError
from alexnet_jax.config.loading import flatten
from alexnet_jax.config.saved import read_config, with_classes
from alexnet_jax.config.values import validate
from alexnet_jax.data import imagenet, of_run
from alexnet_jax.data.dataset import open_dataset
from alexnet_jax.data.preprocessing import read_preprocessing
from alexnet_jax.pretrained import fine_tuning
from alexnet_jax.runs import setup
from configs import default, finetune


def arguments(tiny_dir, source, workdir, *more):
  return (
    '--config=configs/finetune.py',
    f'--workdir={workdir}',
    f'--config.init_from={source}',
    '--config.data.name=tiny:1.0.0',
    f'--config.data.data_dir={tiny_dir}',
    '--config.batch_size=16',
    '--config.num_train_steps=2',
    '--config.data.balance=inverse',
    *more,
  )


def test_three_flags_are_enough(small_network, tiny_dir, tmp_path):
  workdir = tmp_path / 'run'
  command = arguments(tiny_dir, small_network, workdir)
  done = run(*command, devices=1)
  assert f'fc8 is new: {len(CLASS_NAMES)} classes, not 7' in done.stdout
  saved = flatten(read_config(epath.Path(workdir)))
  assert saved['model.name'] == 'owt'
  assert saved['model.num_classes'] == len(CLASS_NAMES)
  assert saved['data.crop_size'] == 64
  assert saved['data.resize_size'] == 72
  np.testing.assert_allclose(saved['data.mean'], imagenet.TORCHVISION_MEAN)
  np.testing.assert_allclose(saved['data.std'], imagenet.TORCHVISION_STD)
  found = list(results(workdir)['per_class'])
  assert found == list(CLASS_NAMES)
  # The number of classes is the run's in an evaluation, too.
  run(*command, '--mode=eval', devices=1)


def test_what_is_set_is_kept(small_network, tmp_path):
  config = finetune.get_config()
  config.init_from = str(small_network)
  config.data.mean = (1.0, 2.0, 3.0)
  config.data.resize_size = 80
  filled = fine_tuning.filled(config, epath.Path(tmp_path))
  validate(filled)
  assert filled.data.mean == (1.0, 2.0, 3.0)
  assert filled.data.resize_size == 80
  assert filled.data.crop_size == 64
  assert config.data.crop_size is None


def test_a_run_with_a_mean_image(small_network, tmp_path):
  source = tmp_path / 'source'
  source.mkdir()
  for name in ('config.json', 'preprocessing.json'):
    (source / name).write_bytes((small_network / name).read_bytes())
  p = json.loads((source / 'preprocessing.json').read_text())
  p['mean'] = np.full((72, 72, 3), 7.0).tolist()
  (source / 'preprocessing.json').write_text(json.dumps(p))
  config = finetune.get_config()
  config.init_from = str(source)
  filled = fine_tuning.filled(config, epath.Path(tmp_path))
  assert filled.data.mean == 'init_from'
  made = of_run.preprocessing_of(
    filled.data,
    None,
    read_preprocessing(epath.Path(source)).mean,
    dataset=None,
    class_names=(),
  )
  assert made.mean.shape == (72, 72, 3)
  assert (made.mean == 7).all()


def test_without_init_from(tmp_path):
  with pytest.raises(UserError, match=r'model.name.*give --config.init_from='):
    fine_tuning.filled(finetune.get_config(), epath.Path(tmp_path))
  config = finetune.get_config()
  config.init_from = str(tmp_path)
  with pytest.raises(UserError, match=r'no config\.json in .*init_from'):
    fine_tuning.filled(config, epath.Path(tmp_path / 'run'))


def test_a_head_of_other_classes_is_said(small_network, capsys):
  network = pretrained.load(small_network)
  config = finetune.get_config()
  config.init_from = str(small_network)
  config = fine_tuning.filled(config, epath.Path('nowhere'))
  config.model.num_classes = 7
  names = list(network.preprocessing.class_names)

  zeros = {
    layer: {kind: np.zeros_like(leaf) for kind, leaf in leaves.items()}
    for layer, leaves in network.params.items()
  }
  state = types.SimpleNamespace(params=zeros, replace=lambda params: params)
  head = fine_tuning.init_from(config, state, names)['fc8']['kernel']
  assert not head.any()  # New: init_head.
  config.init_head = 'keep'
  capsys.readouterr()
  head = fine_tuning.init_from(config, state, names)['fc8']['kernel']
  assert head.any()
  assert 'other classes' not in capsys.readouterr().err
  other = [*names[:3], 'zebra', *names[4:]]
  fine_tuning.init_from(config, state, other)
  assert f"class 3 was '{names[3]}' and is 'zebra'" in capsys.readouterr().err


def test_class_weights(tiny_dir):
  dataset = open_dataset('tiny', str(tiny_dir))
  weights = of_run.class_weights(dataset, 'train', 5)
  labels = np.array([int(e['label']) for e in dataset.read('train')])
  assert weights.shape == (5,)
  assert weights[labels].mean() == pytest.approx(1)
  of_class = [weights[labels[labels == i]].sum() for i in range(3)]
  np.testing.assert_allclose(of_class, of_class[0], rtol=1e-6)
  assert not weights[3:].any()


def test_more_outputs_than_classes_are_said(tiny_dir, capsys):
  config = default.get_config()
  dataset = open_dataset('tiny', str(tiny_dir))
  config.batch_size = 8
  assert with_classes(config, 3).model.num_classes == 3
  config.model.num_classes = 9
  assert with_classes(config, 3).model.num_classes == 9
  setup.check_data(config, dataset)
  warning = capsys.readouterr().err
  assert 'the network has 9 outputs (model.num_classes), and tiny' in warning
