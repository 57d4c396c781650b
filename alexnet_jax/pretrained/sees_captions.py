"""What the page of `sees` says: titles inside its images, and captions.

Each function takes the content of sees.json, or a part of it.
"""

from typing import Any

Content = dict[str, Any]


def facts(content: Content) -> str:
  """Returns which network and which image the page is about."""
  trained = content['trained_on']
  width, height = content['image_size']
  side, crop = content['resize_size'], content['crop_size']
  how = (
    f'both sides resized to {side} pixels'
    if content['resize'] == 'warp'
    else f'its short side resized to {side} pixels'
  )
  return (
    f'Network {content["network"]}, step {content["step"]}'
    f'{f", trained on {trained}" if trained else ""}. '
    f'{content["image"]} has {width} x {height} pixels; the network sees its '
    f'central {crop} x {crop} pixels, with {how}. Its most probable classes:'
  )


def sections(content: Content) -> list[dict[str, str]]:
  """Returns heading, file, title and caption of each image, in order."""
  one = content['class']
  found = [
    (
      'Feature maps', 'maps', maps_title(content['maps']),
      maps_caption(content['maps']),
    ),
    (
      'Gradient', 'gradient', gradient_title(one),
      gradient_caption(one, content['gradient']),
    ),
    (
      'Occlusion', 'occlusion', occlusion_title(one, content['occlusion']),
      occlusion_caption(one, content['occlusion']),
    ),
  ]  # fmt: skip
  if 'patches' in content:
    patches = content['patches']
    found.append(
      (
        'Strongest patches',
        'patches',
        patches_title(patches),
        patches_caption(patches, content['crop_size']),
      )
    )
  return [
    {
      'heading': heading,
      'file': f'sees_{name}.png',
      'title': title,
      'caption': caption,
    }
    for heading, name, title, caption in found
  ]


def maps_title(maps: Content) -> str:
  """Returns the line above the maps."""
  height, width, channels = maps['shape']
  return (
    f'{maps["layer"]}: {channels} maps of {height} x {width}, each scaled to '
    f'its own largest {"absolute value" if maps["signed"] else "value"}'
  )


def maps_caption(maps: Content) -> str:
  """Returns what was computed for the maps."""
  height, width, channels = maps['shape']
  unit, largest = maps['unit'], maps['maxima'][maps['unit']]
  colors = (
    'Blue is negative, white 0, red positive'
    if maps['signed']
    else 'Black is 0, white its largest value'
  )
  silent = sum(value <= 0 for value in maps['maxima'])
  return (
    f'All {channels} maps of {maps["layer"]} for this image, {height} x '
    f'{width} each, numbered from 0. Each is scaled to its own largest '
    f'{"absolute " if maps["signed"] else ""}value, so brightness cannot be '
    f'compared between maps. {colors}. {silent} maps have no value above 0. '
    f'Marked: unit {unit}, whose largest value is {largest:.3g}'
    f'{", the largest of all" if maps["unit_is_largest"] else ""}. The box in '
    'the image is the receptive field of that value, cut at the edges.'
  )


def gradient_title(one: Content) -> str:
  """Returns the line above the gradient."""
  return f"Gradient of the score of '{_short(one)}' by the pixels"


def gradient_caption(one: Content, gradient: Content) -> str:
  """Returns what was computed for the gradient."""
  return (
    f'The gradient of the score of {one["name"]!r} by each pixel, in logit per '
    f'grey level (Simonyan, Vedaldi and Zisserman 2014). The score is the '
    f'logit, before the softmax: {one["logit"]:.3g}; the probability is '
    f'{one["probability"]:.1%}. Middle: the largest absolute value of R, G and '
    f'B, at most {gradient["largest"]:.2g}. Right: the sum of R, G and B: red '
    'where a brighter pixel raises the score, blue where a darker one does. '
    'Colors end at the 99.5th percentile of the absolute values: '
    f'{gradient["saturation"]:.2g} and {gradient["saturation_of_sum"]:.2g}.'
  )


def occlusion_title(one: Content, occlusion: Content) -> str:
  """Returns the line above the occlusion map."""
  return (
    f"Probability of '{_short(one)}' with a square over each place: "
    f'{one["probability"]:.1%} without it, {occlusion["lowest"]:.1%} at the '
    'lowest'
  )


def occlusion_caption(one: Content, occlusion: Content) -> str:
  """Returns what was computed for the occlusion map."""
  patch, stride = occlusion['patch'], occlusion['stride']
  number = len(occlusion['probabilities'])
  return (
    f'Right: the probability of {one["name"]!r} with a square of {patch} x '
    f'{patch} pixels centered on each of {number} x {number} places, {stride} '
    f'pixels apart (Zeiler and Fergus 2014). The square has the mean of '
    'the training images, which is 0 after normalization; it is cut at the '
    f'edges. Without a square the probability is {one["probability"]:.1%}, and '
    f'{occlusion["lowest"]:.1%} with the marked one.'
  )


def patches_title(patches: Content) -> str:
  """Returns the line above the patches."""
  number = len(patches['images'])
  return (
    f'Unit {patches["unit"]} of {patches["layer"]}: the {number} strongest of '
    f'{patches["num_images"]:,} images, with class and activation'
  )


def patches_caption(patches: Content, size: int) -> str:
  """Returns what was computed for the patches.

  Args:
    patches: of the content.
    size: height and width of the network's input, in pixels.
  """
  field = patches['receptive_field']
  side = field['size']
  seen = (
    f'The box is its receptive field: {side} x {side} pixels, every '
    f'{field["stride"]} pixels, cut at the edges of the image. Right: what '
    'lies in the box'
    if field['stride']
    else 'Every position depends on all pixels in the box'
  )
  return (
    f'The {len(patches["images"])} images with the largest activations of unit '
    f'{patches["unit"]} of {patches["layer"]}, the largest first, one position '
    f'an image. Looked at: all {patches["num_images"]:,} images of '
    f'{patches["dataset"]}, split {patches["split"]!r}, each resized and cut '
    f'like the image above. Left of each pair: the {size} x {size} pixels that '
    f'the network sees. {seen}. The number is the activation.'
  )


def _short(one: Content) -> str:
  return one['name'].split(',')[0][:30]
