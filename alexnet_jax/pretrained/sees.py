"""One page of what a network sees in an image: sees.html and its PNG files."""

import functools
import importlib.resources
import json
import os
from typing import Any

import jinja2
import numpy as np
from etils import epath

import alexnet_jax
from alexnet_jax.cli import command
from alexnet_jax.cli.errors import UserError
from alexnet_jax.cli.files import write_file
from alexnet_jax.cli.terminal import escaped
from alexnet_jax.data import imagenet
from alexnet_jax.data.dataset import Dataset
from alexnet_jax.model.receptive_field import receptive_field
from alexnet_jax.plots import sees as plots
from alexnet_jax.pretrained import inference, insides, retrieval, sees_captions
from alexnet_jax.pretrained.loading import Pretrained
from alexnet_jax.pretrained.sees_arguments import (
  find_label,
  find_layer,
  read_view,
)

FILES = tuple(
  f'sees_{name}.png' for name in ('maps', 'gradient', 'occlusion', 'patches')
)


def make(
  network: Pretrained,
  path: str,
  out: epath.Path,
  layer: str | None = None,
  class_name: str | None = None,
  unit: int | None = None,
  data: tuple[Dataset, str] | None = None,
) -> dict[str, Any]:
  """Writes sees.html, its PNG files and sees.json into a folder.

  Args:
    network: the network.
    path: the image file, local or gs://.
    out: the folder; made if it is missing.
    layer: whose maps are drawn; None: the last convolution.
    class_name: a name or a label; None: the most probable class.
    unit: the channel whose strongest patches are drawn; None: the one with the
      largest activation in this image.
    data: a dataset and its split to look for patches in; None: no patches.

  Returns:
    The content of sees.json.

  Raises:
    UserError: the image cannot be read, there is no such layer, class or unit,
      or the network returns values that are not finite.
    StorageError: the folder cannot be written.
  """
  layer = find_layer(network.model.architecture, layer)
  label = None
  if class_name is not None:
    label = find_label(
      class_name, network.preprocessing.class_names, network.model.num_classes
    )
  view = read_view(path, network.preprocessing)
  logits, maps = insides.outputs(network, view.image, layer)
  if not np.isfinite(logits).all() or not np.isfinite(maps).all():
    raise UserError('the network returns values that are not finite')
  channels = maps.shape[-1]
  if unit is not None and not 0 <= unit < channels:
    raise UserError(
      f'--unit={unit}: {layer} has {channels} units, 0 to {channels - 1}'
    )
  label = int(logits.argmax()) if label is None else label
  content = _facts(network, path, view, logits, label)
  files = {}
  files['sees_maps.png'], content['maps'] = _maps(
    network, view.image, maps, layer, unit
  )
  files['sees_gradient.png'], content['gradient'] = _gradient(
    network, view.image, content['class']
  )
  files['sees_occlusion.png'], content['occlusion'] = _occlusion(
    network, view.image, content['class']
  )
  if data:
    files['sees_patches.png'], content['patches'] = _patches(
      network, *data, layer, content['maps']['unit']
    )
  _write(out, content, files)
  return content


def _facts(network, path, view, logits, label) -> dict[str, Any]:
  p = network.preprocessing
  shifted = np.exp(logits - logits.max())
  probabilities = shifted / shifted.sum()
  known = label < len(p.class_names)
  name = imagenet.words(p.class_names[label]) if known else f'class {label}'
  return {
    'network': network.model.architecture.name,
    'step': network.step,
    'trained_on': p.dataset,
    'image': escaped(os.path.basename(path)),
    'image_size': [view.width, view.height],
    'resize': p.resize,
    'resize_size': p.resize_size,
    'crop_size': p.crop_size,
    'classes': inference.likeliest(probabilities, p.class_names),
    'class': {
      'label': label,
      'name': name,
      'probability': float(probabilities[label]),
      'logit': float(logits[label]),
    },
    'command': command.typed(),
    'version': alexnet_jax.__version__,
  }


def _maps(network, image, maps, layer, unit):
  maxima = maps.max(axis=(0, 1))
  chosen = int(maxima.argmax()) if unit is None else unit
  place = np.unravel_index(maps[..., chosen].argmax(), maps.shape[:2])
  field = receptive_field(network.model.architecture, layer, len(image))
  box = _box(*(field.span(int(i)) for i in place))
  content = {
    'layer': layer,
    'shape': list(maps.shape),
    'signed': bool(maps.min() < 0),
    'unit_is_largest': unit is None,
    'unit': chosen,
    'box': list(box),
    'maxima': maxima.tolist(),
  }
  title = sees_captions.maps_title(content)
  return plots.draw_maps(image, maps, chosen, box, title), content


def _gradient(network, image, one):
  gradient = insides.class_gradient(network, image, one['label'])
  largest = np.abs(gradient).max(axis=-1)
  row, column = np.unravel_index(largest.argmax(), largest.shape)
  content = {
    'largest': float(largest.max()),
    'at': [int(row), int(column)],
    'saturation': plots.saturation(largest),
    'saturation_of_sum': plots.saturation(gradient.sum(axis=-1)),
  }
  title = sees_captions.gradient_title(one)
  return plots.draw_gradient(image, gradient, title), content


def _occlusion(network, image, one):
  size = len(image)
  patch, stride = max(1, size // 7), max(1, size // 28)
  found = insides.occlusion(network, image, one['label'], patch, stride)
  begins = insides.square_begins(size, patch, stride)
  row, column = np.unravel_index(found.argmin(), found.shape)
  box = _box(
    *(
      (int(max(begins[i], 0)), int(min(begins[i] + patch, size)))
      for i in (row, column)
    )
  )
  left, top, width, height = box
  hidden = image.copy()
  mean = network.preprocessing.mean_of_crops().round().clip(0, 255)
  inside = np.s_[top : top + height, left : left + width]
  hidden[inside] = mean[inside]
  content = {
    'patch': patch,
    'stride': stride,
    'lowest': float(found.min()),
    'lowest_box': list(box),
    'probabilities': found.tolist(),
  }
  title = sees_captions.occlusion_title(one, content)
  png = plots.draw_occlusion(image, hidden, found, stride, box, title)
  return png, content


def _patches(network, dataset, split, layer, unit):
  size = network.preprocessing.crop_size
  field = receptive_field(network.model.architecture, layer, size)
  found = insides.strongest(network, dataset, split, layer, unit)
  examples = retrieval.examples_at(dataset, split, [f.position for f in found])
  entries, drawn = [], []
  for one in found:
    example, box = examples[one.position], _box(*map(field.span, one.place))
    drawn.append(plots.Patch(one.image, box, example.truth, one.activation))
    entries.append(
      {
        'key': example.key,
        'truth': example.truth,
        'position': one.position,
        'activation': one.activation,
        'place': list(one.place),
        'box': list(box),
      }
    )
  content = {
    'dataset': dataset.full_name,
    'split': split,
    'num_images': dataset.num_examples(split),
    'layer': layer,
    'unit': unit,
    'receptive_field': field._asdict(),
    'images': entries,
  }
  title = sees_captions.patches_title(content)
  return plots.draw_patches(drawn, title), content


def _box(rows: tuple[int, int], columns: tuple[int, int]):
  """Returns left, top, width and height of an area."""
  (top, bottom), (left, right) = rows, columns
  return left, top, right - left, bottom - top


def _write(out, content, files):
  out.mkdir(parents=True, exist_ok=True)
  environment = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
  )
  template = importlib.resources.files(__package__) / 'sees.html'
  page = environment.from_string(template.read_text()).render(
    title=f'What the network {content["network"]} sees in {content["image"]}',
    facts=sees_captions.facts(content),
    sections=sees_captions.sections(content),
    classes=content['classes'],
    command=content['command'],
    version=content['version'],
  )
  texts = {
    'sees.json': json.dumps(content, indent=2) + '\n',
    'sees.html': page + '\n',  # Last: it shows the others.
  }
  files = {**files, **{name: text.encode() for name, text in texts.items()}}
  for name in set(FILES) - set(files):
    (out / name).unlink(missing_ok=True)  # Of an earlier page.
  for name, data in files.items():
    write_file(str(out / name), functools.partial(_fill, data))


def _fill(data: bytes, file) -> None:
  file.write(data)
