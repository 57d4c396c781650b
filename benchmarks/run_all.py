"""Runs the benchmarks and writes docs/benchmarks.md (`make bench`).

  python benchmarks/run_all.py [--only=cpu_step,lrn] [--data_dir=DIR]

With `--only`, the page's other parts do not change. The benchmark of the input
reads ImageNet's files from DIR and is skipped without it.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parent / 'docs' / 'benchmarks.md'
# The names of the page's parts, and their commands.
BENCHMARKS = {
  'cpu_step': 'cpu_step.py',
  'cpu_step_bfloat16': 'cpu_step.py --dtype=bfloat16',
  'cpu_parts': 'cpu_parts.py',
  'conv': 'conv.py',
  'lrn': 'lrn.py',
  'ablations': 'ablations.py',
  'train_overhead': 'train_overhead.py',
  'startup': 'startup.py',
  'tpu_step': 'tpu_step.py',
  'input_pipeline': 'input_pipeline.py',
}
HEAD = """# Benchmarks

`make bench` writes this page: each part is the output of its command, from one
run. Compare the ratios rather than the speeds: a machine's speed varies over
minutes, so the implementations took turns. [speed.md](speed.md) explains the
results."""


def part(name: str, arguments: list[str]) -> str:
  """Runs a benchmark and returns its output as Markdown."""
  shown = f'python benchmarks/{BENCHMARKS[name]}'
  command = [sys.executable, *shown.split()[1:], *arguments]
  print(f'{name} ...', file=sys.stderr, flush=True)
  done = subprocess.run(
    command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True
  )
  *table, last = done.stdout.strip().splitlines()
  result = json.loads(last)
  where = [
    f'{key} {result[key]}'
    for key in result
    if key not in ('ratios', 'targets', 'met', 'missed')
    and isinstance(result[key], str)
  ]
  rows = [
    f'| `{key}` | {value:g} | {result["targets"].get(key, "-")} |'
    for key, value in result['ratios'].items()
  ]
  head = ['| ratio | measured | target |', '|---|---|---|'] * bool(rows)
  return '\n'.join([
    f'## {name}',
    '',
    f'`{shown}`; ' + ', '.join(where),
    '',
    '```',
    *table,
    '```',
    '',
    *head,
    *rows,
    *[''] * bool(rows),
    'No targets.' if not result['targets']
    else 'All targets are met.' if result['met']
    else 'Missed: ' + ', '.join(f'`{key}`' for key in result['missed']) + '.',
  ])  # fmt: skip


def main() -> None:
  """Runs the chosen benchmarks and writes the page."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default=','.join(BENCHMARKS))
  parser.add_argument('--data_dir')
  arguments = parser.parse_args()
  chosen = arguments.only.split(',')
  if unknown := set(chosen) - set(BENCHMARKS):
    parser.error(f'no benchmark {sorted(unknown)}: {", ".join(BENCHMARKS)}')
  page = PAGE.read_text().split('\n## ')[1:] if PAGE.exists() else []
  parts = {re.split(r'\W', text)[0]: f'## {text}'.rstrip() for text in page}
  for name in chosen:
    if name == 'input_pipeline' and not arguments.data_dir:
      print('input_pipeline is skipped: no --data_dir', file=sys.stderr)
      continue
    own = [f'--data_dir={arguments.data_dir}'] * (name == 'input_pipeline')
    parts[name] = part(name, own)
    pieces = [parts[key] for key in BENCHMARKS if key in parts]
    PAGE.write_text('\n\n'.join([HEAD, *pieces]) + '\n')


if __name__ == '__main__':
  main()
