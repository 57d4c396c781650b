"""The page, from committed runs and from what may be left of a run."""

import json
import pathlib
import re
import shutil

import pytest

from alexnet_jax.cli.errors import UserError
from alexnet_jax.report import __main__ as report
from alexnet_jax.report import answers as answering
from alexnet_jax.report import claims, figure1, page, runs

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / 'results'
DIGITS = RESULTS / 'digits' / '0'


@pytest.fixture
def copy(tmp_path):
  """Makes a run of the committed one, with changes."""

  def make(name, config=(), results=(), speed=None):
    folder = tmp_path / 'runs' / name
    shutil.copytree(DIGITS, folder)
    written = json.loads((folder / 'config.json').read_text())
    for field, value in dict(config).items():
      *path, last = field.split('.')
      inner = written
      for key in path:
        inner = inner[key]
      inner[last] = value
    (folder / 'config.json').write_text(json.dumps(written))
    scores = {
      **json.loads((folder / 'results.json').read_text()),
      'seed': written['seed'],
      'architecture': written['model']['name'],
      'dataset': written['data']['name'].split(':')[0] + '/1.0.0',
      'split': written['data']['val_split'],
      **dict(results),
    }
    (folder / 'results.json').write_text(json.dumps(scores))
    if speed:
      lines = (folder / 'metrics.jsonl').read_text().splitlines()
      lines = [json.loads(line) for line in lines]
      for line in lines:
        if 'images_per_second' in line:
          line['images_per_second'] = speed
      text = ''.join(json.dumps(line) + '\n' for line in lines)
      (folder / 'metrics.jsonl').write_text(text)
    return folder

  return make


def experiments(*folders):
  found = runs.find([str(folder) for folder in folders])
  return runs.group(runs.read_all(found))


def answers(source, name, *folders):
  claim = next(
    c for c in claims.CLAIMS if c.source == source and name in c.what
  )
  return claim.answers(experiments(*folders))


def test_the_committed_runs_make_the_page(tmp_path, capsys):
  report.main([str(RESULTS), f'--out={tmp_path / "out"}'])
  out = tmp_path / 'out'
  assert capsys.readouterr().out.strip() == str(out / 'index.html')
  html = (out / 'index.html').read_text()
  for name, _ in page.SECTIONS:
    assert f'<section id="{name}">' in html
  for claim in claims.CLAIMS:
    for text in (claim.paper, claim.notebook):
      assert text.split("'")[0] in html
  # All in one file: no address but those of XML's names.
  links = set(re.findall(r'https?://[^\s"\'<>]+', html))
  assert all('w3.org' in link or 'purl.org' in link or
             'matplotlib.org' in link or 'creativecommons' in link
             for link in links)  # fmt: skip
  assert not re.search(r'(src|href)="(?!data:image/png|#)', html)
  assert '@import' not in html
  assert 'url(' not in re.sub(r'url\(#', '', html)
  for folder in sorted(RESULTS.glob('*/*')):
    assert f'{folder.parent.name}' in html
  assert (out / 'results.md').read_text().startswith('## What the paper says')
  assert list(out.glob('curves-*.png'))


def test_the_readmes_table_is_that_of_the_committed_runs(tmp_path):
  copied = tmp_path / 'README.md'
  shutil.copyfile(ROOT / 'README.md', copied)
  report.update_readme(experiments(RESULTS), str(copied))
  assert copied.read_text() == (ROOT / 'README.md').read_text(), (
    'make report writes it anew'
  )


def test_no_committed_run_tells_of_a_machine():
  for path in RESULTS.rglob('*.json*'):
    text = path.read_text()
    assert not re.search(r'"/[a-z]|/home/|/tmp/|gs://', text), path


def test_seeds_are_averaged_with_their_spread(copy):
  folders = [
    copy(f'digits/{seed}', {'seed': seed}, {'seed': seed, 'top1_error': error})
    for seed, error in ((0, 0.01), (1, 0.02), (2, 0.06))
  ]
  (experiment,) = experiments(*folders)
  assert [run.seed for run in experiment.runs] == [0, 1, 2]
  # Mean 3%, deviations -2, -1 and 3: sqrt(14 / 2) = 2.6.
  assert answering.both_errors(experiment).startswith('3.0 ± 2.6% / ')
  html = page.html([experiment])
  assert '3.0 ± 2.6%' in html
  assert 'seeds 0, 1, 2' in html


def test_a_difference_is_paired_by_seed(copy):
  """Seeds 0 and 1 in both: +1.0 and +3.0 points. Seed 2 has no peer."""
  base = ((0, 0.10), (1, 0.20))
  without = ((0, 0.11), (1, 0.23), (2, 0.90))
  light = {'data.lighting': 'sqrt_eigenvalue'}
  for seed, error in base:
    copy(f'base/{seed}', {'seed': seed, **light},
         {'seed': seed, 'top1_error': error, 'train_top1_error': 0.05},
         speed=200)  # fmt: skip
  for seed, error in without:
    copy(f'no_lrn/{seed}',
         {'seed': seed, **light, 'model.ablations': ['no_lrn']},
         {'seed': seed, 'top1_error': error, 'train_top1_error': 0.04},
         speed=300)  # fmt: skip
  folder = copy('other/0').parent.parent
  (answer,) = answers('section 3.3', 'Without LRN', folder)
  assert answer.text == (
    '+2.0 ± 1.4 / +0.0 ± 0.0 points: 17.0 ± 8.5% / 0.0 ± 0.0% instead of '
    '15.0 ± 7.1% / 0.0 ± 0.0%; training error 4.0 ± 0.0% instead of '
    '5.0 ± 0.0%; 300 images/s instead of 200; 11 epochs'
  )
  assert [seeds for _, seeds in answer.experiments] == [(0, 1), (0, 1)]
  assert answers('section 3.4', 'overlap', folder) == []


def test_other_epochs_or_data_are_not_compared(copy):
  copy('base/0', {'data.lighting': 'sqrt_eigenvalue'})
  copy('short/0', {'data.lighting': 'none', 'num_epochs': 7})
  folder = copy('far/0', {'data.lighting': 'none', 'data.name': 'other'})
  assert answers('section 4.1', 'lighting', folder.parent.parent) == []
  near = copy('near/0', {'data.lighting': 'none'})
  assert len(answers('section 4.1', 'lighting', near.parent.parent)) == 1


def test_only_imagenet_answers_to_table_2(copy):
  net = {
    'model.name': 'paper',
    'data.lighting': 'sqrt_eigenvalue',
    'data.val_split': 'validation',
  }
  there = {'crops': 10, 'top1_error': 0.41, 'top5_error': 0.18}
  folder = copy('digits/0', net, there).parent.parent
  assert answers('Table 2', 'One network, ILSVRC', folder) == []
  copy('imagenet/0', {**net, 'data.name': 'imagenet2012:5.1.0'}, there)
  (answer,) = answers('Table 2', 'One network, ILSVRC', folder)
  assert answer.text == '41.0% / 18.0%, paper after 11 epochs'
  copy('dark/0', {**net, 'data.name': 'imagenet2012:5.1.0',
                  'data.lighting': 'none'}, there)  # fmt: skip
  assert len(answers('Table 2', 'One network, ILSVRC', folder)) == 1


def test_figure_1_compares_the_fastest_rates(tmp_path, copy):
  def line(step, error):
    return json.dumps(
      {
        'split': 'train', 'step': step, 'epoch': step / 10, 'loss': 1.0,
        'top1_error': error, 'learning_rate': 0.1, 'images_per_second': 9.0,
      }
    )  # fmt: skip

  for name, ablations, rate, reached in (
    ('relu-a', [], 0.1, 20),
    ('relu-b', [], 0.2, 30),
    ('tanh-a', ['tanh'], 0.1, 90),
    ('tanh-b', ['tanh'], 0.2, None),
  ):
    folder = copy(
      f'{name}/0',
      {
        'model.name': 'cifar10_relu',
        'model.ablations': ablations,
        'optimizer.learning_rate': rate,
        'data.name': 'cifar10',
      },
    )
    (folder / 'results.json').unlink()
    lines = [
      line(step, 0.25 if reached and step >= reached else 0.5)
      for step in range(10, 100, 10)
    ]
    (folder / 'metrics.jsonl').write_text('\n'.join(lines))
  everything = experiments(folder.parent.parent)
  figure = figure1.figure_1(everything)
  assert figure.ratio == (4.5, None)
  (answer,) = figure1.answer(everything)
  assert answer.text == (
    '4.5 times: 9.0 epochs at rate 0.1 against 2.0 at 0.1; ReLU was not tried '
    'on both sides of its rate; tanh was not tried on both sides of its rate'
  )
  html = page.html(everything)
  assert 'not within 9.00 epochs (seed 0)' in html
  assert '3.00 (seed 0)' in html


def change(path, keys, value):
  content = json.loads(path.read_text())
  inner = content
  for key in keys[:-1]:
    inner = inner[key]
  inner[keys[-1]] = value
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  ('spoil', 'told'),
  [
    (lambda f: (f / 'results.json').unlink(), 'no results.json'),
    (lambda f: (f / 'config.json').unlink(), 'no config.json'),
    (lambda f: (f / 'metrics.jsonl').unlink(), 'no metrics.jsonl'),
    (
      lambda f: (f / 'results.json').write_text('{"top1'),
      'results.json cannot',
    ),
    (lambda f: (f / 'results.json').write_text('[]'), 'results.json cannot'),
    (lambda f: (f / 'config.json').write_text('7'), 'config.json cannot'),
    (
      lambda f: (f / 'config.json').write_bytes(b'\xff\xfe'),
      'config.json cannot',
    ),
    (
      lambda f: change(f / 'config.json', ('data', 'name'), 7),
      'config.json: data.name is 7',
    ),
    (
      lambda f: change(f / 'config.json', ('optimizer',), 7),
      'config.json: no optimizer.learning_rate',
    ),
    (
      lambda f: change(f / 'results.json', ('split',), 'train'),
      'results.json: split is',
    ),
    (
      lambda f: change(f / 'results.json', ('dataset',), 'mnist/3.0.1'),
      'results.json: dataset is',
    ),
    (
      lambda f: change(f / 'results.json', ('loss',), 10**400),
      'results.json: loss is',
    ),
    (
      lambda f: change(f / 'results.json', ('top1_error',), 1.5),
      'results.json: top1_error is 1.5',
    ),
    (
      lambda f: (f / 'metrics.jsonl').write_text(
        '{"split": "train", "step": 4, "epoch": 11, "loss": NaN, '
        '"top1_error": 0.5}\n'
      ),
      'diverged: the loss is NaN from step 4 on',
    ),
    (
      lambda f: (f / 'metrics.jsonl').write_text(''),
      'metrics.jsonl has no training lines',
    ),
    (
      lambda f: (f / 'results.json').write_text('{"top1_error": "<b>"}'),
      'results.json: top1_error is',
    ),
    (
      lambda f: (f / 'metrics.jsonl').write_text(
        '{"split": "train", "step": 4, "epoch": 0.4, "loss": 2, '
        '"top1_error": 0.5}\n{"split": "trai\n[]\n{"split": "x"}\n'
      ),
      '3 of 4 lines are damaged',
    ),
    (
      lambda f: (f / 'metrics.jsonl').write_text(
        '{"split": "train", "step": 4, "epoch": 0.4, "loss": 2, '
        '"top1_error": 0.5}\n'
      ),
      'unfinished: epoch 0.4 of 11',
    ),
  ],
)
def test_what_is_wrong_with_a_run_is_in_its_row(
  tmp_path, copy, capsys, spoil, told
):
  good, bad = copy('good/0'), copy('bad/1', {'batch_size': 8})
  spoil(bad)
  report.main([str(good), str(bad), f'--out={tmp_path / "out"}'])
  html = (tmp_path / 'out' / 'index.html').read_text()
  row = re.search(r'class="problem">\s*<td[^>]*>(.*?)</td>', html, re.DOTALL)[1]
  assert 'bad/1' in row
  assert told in row
  assert told in capsys.readouterr().err
  assert told in (tmp_path / 'out' / 'results.md').read_text()
  # What is not whole is not scored.
  (of_good, *_) = experiments(good, bad)
  assert len(of_good.scored) == 1
  assert '<b>"' not in html


def test_an_unfinished_run_is_not_scored(copy):
  """Its results.json is that of an evaluation in between."""
  longer = copy('longer/0', {'num_epochs': 20})
  (experiment,) = experiments(longer)
  assert experiment.scored == ()
  assert experiment.runs[0].problems == ('unfinished: epoch 11.0 of 20',)
  capped = copy('capped/0', {'num_train_steps': 900})
  (experiment,) = experiments(capped)
  assert 'unfinished: step 495 of 900' in experiment.runs[0].problems


def test_another_number_of_classes_is_told(copy):
  folders = [copy('a/0'), copy('b/0'), copy('c/0', {'model.num_classes': 100})]
  found = {run.name: run for run in runs.read_all(runs.find(map(str, folders)))}
  assert found['a/0'].problems == found['b/0'].problems == ()
  (problem,) = found['c/0'].problems
  assert '100 classes, where other runs on digits have 10' in problem
  assert 'not compared' in page.html(runs.group(list(found.values())))


def test_a_folder_by_two_names_and_a_seed_twice_count_once(copy, monkeypatch):
  folder = copy('a/0')
  monkeypatch.chdir(folder.parent.parent)
  found = runs.find([str(folder.parent), 'a/0', '.', 'a/../a'])
  assert len(found) == 1
  again = copy('b/0')
  (experiment,) = experiments(folder, again)
  assert [run.name for run in experiment.scored] == ['a/0']
  (twice,) = [run for run in experiment.runs if run.problems]
  assert twice.problems == ('the experiment and seed of a/0 again',)


def test_pictures_of_another_kind_are_another_experiment(copy):
  a, b = copy('a/0'), copy('b/1', {'seed': 1})
  assert len(experiments(a, b)) == 1
  (b.parent / 'note.txt').write_text('JPEG q75')
  assert len(experiments(a, b)) == 2


def test_ten_crops_of_another_checkpoint_are_not_compared(copy):
  light = {'data.lighting': 'sqrt_eigenvalue'}
  base = copy('base/0', light, {'top1_error': 0.1})
  ten = copy(
    'ten/0', light, {'top1_error': 0.08, 'crops': 10, 'params_digest': 'x'}
  )
  assert answers('section 4.1', 'Ten crops', base, ten) == []
  (digest,) = [r.results['params_digest'] for r in runs.read_all([base])]
  change(ten / 'results.json', ('params_digest',), digest)
  (answer,) = answers('section 4.1', 'Ten crops', base, ten)
  assert answer.text.startswith('-2.0 / +0.0 points')


def test_a_rate_that_a_seed_did_not_get_by_is_not_the_fastest(copy):
  net = {'model.name': 'cifar10_relu', 'data.name': 'cifar10'}
  folders = [
    copy(f'{name}/{seed}', {**net, 'seed': seed, 'num_epochs': 9,
                            'optimizer.learning_rate': rate})
    for name, rate, seed in (('a', 0.1, 0), ('b', 0.2, 0), ('b', 0.2, 1))
  ]  # fmt: skip
  for folder, reached in zip(folders, (5, 2, 99), strict=True):
    (folder / 'metrics.jsonl').write_text(
      ''.join(
        json.dumps(
          {'split': 'train', 'step': n, 'epoch': n, 'loss': 1,
           'top1_error': 0.2 if n >= reached else 0.5}
        ) + '\n'
        for n in range(1, 10)
      )
    )  # fmt: skip
  rates = figure1.figure_1(experiments(*folders)).relu
  assert [one.rate for one in rates] == [0.1, 0.2]
  html = page.html(experiments(*folders))
  assert '2.00 (seed 0); not within 9.00 epochs (seed 1)' in html


def test_a_last_line_over_few_steps_is_no_crossing(copy):
  folder = copy('a/0')
  (folder / 'metrics.jsonl').write_text(
    ''.join(
      json.dumps({'split': 'train', 'step': step, 'epoch': step / 100,
                  'loss': 1, 'top1_error': error}) + '\n'
      for step, error in ((100, 0.5), (200, 0.5), (210, 0.1))
    )
  )  # fmt: skip
  assert runs.epochs_to(runs.read(folder).train, 0.25) is None


def test_a_table_cell_is_one_cell(copy):
  folder = copy('ensemble/0')
  config = json.loads((folder / 'config.json').read_text())
  config['members'] = ['a|b', '<!-- end of results -->']
  (folder / 'config.json').write_text(json.dumps(config))
  table = page.runs_table(experiments(folder))
  assert '<!--' not in table
  assert r'a\|b' in table


def test_how_a_run_was_scored_again_is_told(copy):
  commands = ['main --config.seed=3 a', 'main --config.seed=3 a --mode=eval']
  folder = copy('a/0', results={'commands': commands})
  table = page.runs_table(experiments(folder))
  assert '`main a`, then `main a --mode=eval`' in table


def test_five_networks_with_a_part_left_out_are_not_table_2s(copy):
  whole = {'model.name': 'paper', 'data.lighting': 'sqrt_eigenvalue'}
  members = [{'config': whole} for _ in range(5)]
  folder = copy(
    'five/0',
    {'data.name': 'imagenet2012:5.1.0', 'data.val_split': 'validation'},
    {'crops': 10, 'members': members, 'top1_error': 0.4, 'top5_error': 0.2},
  )
  change(folder / 'config.json', ('members',), list('abcde'))
  (answer,) = answers('Table 2', 'Five networks', folder)
  assert answer.text.startswith('40.0% / 20.0%, paper, paper')
  part = {**whole, 'model.ablations': ['no_lrn']}
  change(folder / 'results.json', ('members', 4, 'config'), part)
  assert answers('Table 2', 'Five networks', folder) == []


def test_pictures_of_an_earlier_report_go_but_no_others(tmp_path):
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'curves-mine.png').write_bytes(b'mine')
  report.main([str(DIGITS), f'--out={out}'])
  assert (out / 'curves-mine.png').exists()
  (out / 'curves-old.png').write_bytes(b'')
  report.main([str(DIGITS), f'--out={out}'])
  assert {path.name for path in out.glob('curves-*')} == {'curves-digits-0.png'}


def test_names_and_notes_from_files_are_text_in_the_page(copy):
  folder = copy('<i>x/0', {'model.name': '<script>alert(1)</script>'})
  (folder.parent / 'note.txt').write_text('JPEG <q75>')
  html = page.html(experiments(folder))
  assert '<script' not in html
  assert '<i>' not in html
  assert 'JPEG &lt;q75&gt;' in html


def test_the_most_confused_classes_of_a_seed(copy):
  pair = {'label': 'n02979186', 'predicted': 'n03888257', 'of': 50}
  folders = [
    copy(f'x/{seed}', {'seed': seed},
         {'seed': seed, 'most_confused': [{**pair, 'count': count}]})
    for seed, count in ((0, 5), (1, 15))
  ]  # fmt: skip
  html = page.html(experiments(*folders))
  assert '<h3>x/0</h3>' in html
  assert 'cassette player' in html
  assert 'parachute' in html
  assert '10% (5 of 50)' in html


def test_a_drop_of_the_rate_is_marked():
  (experiment,) = experiments(DIGITS)
  (drop,) = runs.drops(experiment.runs[0])
  assert drop == (pytest.approx(9, abs=0.1), pytest.approx(0.0005))
  assert 'rate 0.0005' in page.html([experiment])


def test_a_long_log_is_thinned():
  lines = [{'epoch': i / 100, 'loss': float(i)} for i in range(20_000)]
  points = list(runs.curve(lines, 'loss'))
  assert len(points) == 400
  assert points[0] == (pytest.approx(0.245), pytest.approx(24.5))


def test_usage_errors_write_nothing(tmp_path):
  with pytest.raises(UserError, match='no folder'):
    report.main([str(tmp_path / 'nowhere'), f'--out={tmp_path / "out"}'])
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='is a run: name another folder'):
    report.main([str(DIGITS), f'--out={DIGITS}'])
  with pytest.raises(UserError, match='is a file'):
    report.main([str(DIGITS), f'--out={tmp_path / "file"}'])
  (tmp_path / 'README.md').write_text('nothing')
  with pytest.raises(UserError, match='<!-- results -->'):
    report.update_readme(experiments(DIGITS), str(tmp_path / 'README.md'))
  assert not (tmp_path / 'out').exists()


def test_runs_of_one_name_do_not_share_a_picture(tmp_path, copy):
  a, b = copy('a/run'), copy('b/run', {'batch_size': 8})
  assert {e.name for e in experiments(a, b)} == {'run'}
  report.main([str(a), str(b), f'--out={tmp_path / "out"}'])
  names = {path.name for path in (tmp_path / 'out').glob('curves-*')}
  assert names == {'curves-run.png', 'curves-run-2.png'}
  html = (tmp_path / 'out' / 'index.html').read_text()
  ids = re.findall(r'<tr id="([^"]*)"', html)
  assert len(set(ids)) == 2


def test_a_folder_without_runs_still_makes_a_page(tmp_path):
  (tmp_path / 'empty').mkdir()
  report.main([str(tmp_path / 'empty'), f'--out={tmp_path / "out"}'])
  assert 'no config.json' in (tmp_path / 'out' / 'index.html').read_text()
