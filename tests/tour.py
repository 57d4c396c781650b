"""Executes examples/paper_tour.ipynb (`make test-tour`)."""

import json
import pathlib
import time

import nbformat
import pytest
from nbclient import NotebookClient

PATH = pathlib.Path(__file__).parent.parent / 'examples/paper_tour.ipynb'
# Three minutes on two idle cores; this machine may be busy.
LIMIT = 480


def numbers(notebook):
  """What its last cell prints."""
  (output,) = notebook.cells[-1].outputs
  return json.loads(output.text)


def images(notebook):
  """Its images, as base64."""
  return [
    output.data[kind]
    for cell in notebook.cells
    for output in cell.get('outputs', ())
    for kind in output.get('data', ())
    if kind.startswith('image/')
  ]


def test_the_notebook():
  committed = nbformat.read(PATH, as_version=4)
  notebook = nbformat.read(PATH, as_version=4)
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      cell.outputs = []
  start = time.monotonic()
  NotebookClient(
    notebook, timeout=LIMIT, resources={'metadata': {'path': PATH.parent}}
  ).execute()
  seconds = time.monotonic() - start
  print(f'{seconds:.0f} s')
  found, expected = numbers(notebook), numbers(committed)
  assert found.keys() == expected.keys()
  # What a training gives depends on the machine.
  for each in (found, expected):
    assert each.pop('learning_rates') == [0.005, 0.0005]
    assert each.pop('validation_error') < 0.05
  for name, value in expected.items():
    assert found[name] == pytest.approx(value, rel=0.01), name
  assert len(images(notebook)) == len(images(committed)) >= 10
  assert seconds < LIMIT
