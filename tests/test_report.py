"""The report, from committed runs and from incomplete or invalid ones."""

import json
import pathlib
import re
import shutil

import pytest

from alexnet_jax.cli.errors import UserError
from alexnet_jax.report import __main__ as report
from alexnet_jax.report import answers as answers_lib
from alexnet_jax.report import (
  claims,
  figure1,
  logs,
  output,
  page,
  runs,
  tables,
  views,
)
from alexnet_jax.report import experiments as experiments_lib

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / 'results'
DIGITS = RESULTS / 'digits' / '0'


@pytest.fixture
def copy(tmp_path):
  """Returns a function that copies the committed run, with changes."""

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
  return experiments_lib.group(runs.read_all(found))


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
    for text in (claim.published, claim.notebook):
      assert text.split("'")[0] in html
  # One file: its only addresses are XML namespaces.
  links = set(re.findall(r'https?://[^\s"\'<>]+', html))
  assert all('w3.org' in link or 'purl.org' in link or
             'matplotlib.org' in link or 'creativecommons' in link
             for link in links)  # fmt: skip
  assert not re.search(r'(src|href)="(?!data:image/png|#)', html)
  assert '@import' not in html
  assert 'url(' not in re.sub(r'url\(#', '', html)
  for folder in sorted(RESULTS.glob('*/*')):
    assert f'{folder.parent.name}' in html
  assert (out / 'results.md').read_text().startswith('## Claims')
  assert list(out.glob('curves-*.png'))


@pytest.mark.parametrize(
  ('name', 'text_of'),
  [('README.md', tables.summary), ('docs/results.md', tables.markdown)],
)
def test_documents_have_the_numbers_of_the_committed_runs(
  tmp_path, name, text_of
):
  copied = tmp_path / 'copy.md'
  shutil.copyfile(ROOT / name, copied)
  output.replace_marked({'--x': (str(copied), text_of(experiments(RESULTS)))})
  assert copied.read_text() == (ROOT / name).read_text(), 'run: make report'


def test_documents_are_written_between_their_marks(tmp_path, capsys):
  marks = '<!-- results -->\n{}<!-- end of results -->\n'
  for name in ('README.md', 'results.md'):
    (tmp_path / name).write_text('before\n' + marks.format('old\n') + 'after\n')
  report.main([str(DIGITS), f'--out={tmp_path / "out"}',
               f'--readme={tmp_path / "README.md"}',
               f'--results={tmp_path / "results.md"}'])  # fmt: skip
  found = experiments(DIGITS)
  for name, text_of in (
    ('README.md', tables.summary),
    ('results.md', tables.markdown),
  ):
    expected = 'before\n' + marks.format(text_of(found)) + 'after\n'
    assert (tmp_path / name).read_text() == expected
  written = (tmp_path / 'out' / 'results.md').read_text()
  assert written == tables.markdown(found)


def test_documents_are_written_all_or_none(tmp_path):
  good, bad = tmp_path / 'README.md', tmp_path / 'results.md'
  text = 'a\n<!-- results -->\nold\n<!-- end of results -->\n'
  good.write_text(text)
  bad.write_text('no marks')
  with pytest.raises(UserError, match=r'results\.md .--results. has no marks'):
    report.main([str(DIGITS), f'--out={tmp_path / "out"}',
                 f'--readme={good}', f'--results={bad}'])  # fmt: skip
  assert good.read_text() == text
  assert not (tmp_path / 'out').exists()


def test_the_summary_has_at_most_eight_rows_of_numbers():
  head, _, *rows = tables.summary(experiments(RESULTS)).splitlines()
  assert head == '| experiment | published | ours | verdict | dataset | seeds |'
  assert 4 <= len(rows) <= 8
  seeds = []
  for row in rows:
    what, published, ours, verdict, _, number = row.strip('| ').split(' | ')
    assert re.match('agrees|differs|cannot tell|n/a', verdict)
    assert len(what.split()) <= 8
    assert published == 'n/a' or re.search(r'\d', published)
    assert re.search(r'\d', ours)
    seeds.append(int(number))
  # The best known results come first.
  assert seeds == sorted(seeds, reverse=True)
  digits = '| `caffe`, error | n/a | 1.2 ± 0.2% | n/a | digits, 11 epochs | 3 |'
  assert digits in rows


def test_no_committed_run_contains_a_machines_paths():
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
  # Mean 3%, differences from it -2, -1 and 3: sqrt(14 / 2) = 2.6.
  assert answers_lib.both_errors(experiment).startswith('3.0 ± 2.6% / ')
  html = page.html([experiment])
  assert '3.0 ± 2.6%' in html
  assert 'seeds 0, 1, 2' in html


def test_a_difference_is_paired_by_seed(copy):
  """Seeds 0 and 1 in both: +1.0 and +3.0 points. Seed 2 is in one only."""
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
  assert answer.number == '+2.0 ± 1.4 / +0.0 ± 0.0'
  assert answer.epochs == '11'
  assert answer.compared == (
    '17.0 ± 8.5% / 0.0 ± 0.0%', '15.0 ± 7.1% / 0.0 ± 0.0%',
    '4.0 ± 0.0%', '5.0 ± 0.0%', '300', '200',
  )  # fmt: skip
  assert [seeds for _, seeds in answer.experiments] == [(0, 1), (0, 1)]
  everything = experiments(folder)
  # t with one degree of freedom is 12.7: 2 ± 12.7.
  assert answer.changes == pytest.approx((1.0, 3.0))
  row = '| -10.7 to +14.7 | cannot tell (about 5 seeds would) |'
  assert row in tables.markdown(everything)
  assert 'class="answer cannot-tell"' in page.html(everything)
  row = f'| Without LRN | {" | ".join(answer.compared)} | no_lrn | base |'
  assert row in tables.markdown(everything)
  html = page.html(everything)
  assert all(f'>{cell}</td>' in html for cell in answer.compared)
  assert answers('section 3.4', 'overlap', folder) == []


def test_other_epochs_or_data_are_not_compared(copy):
  copy('base/0', {'data.lighting': 'sqrt_eigenvalue'})
  copy('short/0', {'data.lighting': 'none', 'num_epochs': 7})
  folder = copy('far/0', {'data.lighting': 'none', 'data.name': 'other'})
  assert answers('section 4.1', 'lighting', folder.parent.parent) == []
  near = copy('near/0', {'data.lighting': 'none'})
  assert len(answers('section 4.1', 'lighting', near.parent.parent)) == 1


def test_runs_of_an_earlier_version_are_compared_with_todays(copy):
  """The committed digits have no field of later versions."""
  today = {'optimizer.reduce_dtype': 'float32', 'data.balance': 'none'}
  light = {'data.lighting': 'sqrt_eigenvalue'}
  copy('base/0', light)
  folder = copy('no_lrn/0', {**light, **today, 'model.ablations': ['no_lrn']})
  assert len(answers('section 3.3', 'Without LRN', folder.parent.parent)) == 1
  copy('base/1', {**light, **today, 'seed': 1})
  assert len(experiments(folder.parent.parent)) == 2


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
  assert answer.number == '41.0% / 18.0%'
  assert (answer.note, answer.epochs) == ('paper', '11')
  copy('dark/0', {**net, 'data.name': 'imagenet2012:5.1.0',
                  'data.lighting': 'none'}, there)  # fmt: skip
  assert len(answers('Table 2', 'One network, ILSVRC', folder)) == 1


def test_figure_1_compares_the_fastest_learning_rates(tmp_path, copy):
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
  assert figure.ratios == (4.5,)
  (answer,) = figure1.answer(everything)
  assert answer.number == '4.5 times'
  assert answer.note == (
    'tanh takes 9.0 epochs at learning rate 0.1, ReLU 2.0 at 0.1; ReLU was not '
    'tried at learning rates on both sides; tanh was not tried at learning '
    'rates on both sides'
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
  ('spoil', 'problem'),
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
      '3 of 4 lines are invalid',
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
def test_an_invalid_run_is_listed_with_the_reason_and_excluded(
  tmp_path, copy, capsys, spoil, problem
):
  good, bad = copy('good/0'), copy('bad/1', {'batch_size': 8})
  spoil(bad)
  report.main([str(good), str(bad), f'--out={tmp_path / "out"}'])
  html = (tmp_path / 'out' / 'index.html').read_text()
  item = re.search(r'class="problem">(.*?)</li>', html, re.DOTALL)[1]
  assert 'bad/1' in item
  assert problem in item
  assert problem in capsys.readouterr().err
  written = (tmp_path / 'out' / 'results.md').read_text()
  (line,) = [one for one in written.splitlines() if problem in one]
  assert line.startswith('- bad/1: ')
  (of_good, of_bad) = experiments(good, bad)
  assert len(of_good.scored) == 1
  assert of_bad.scored == ()
  assert html.count('>excluded</td>') == written.count('| excluded |') == 1
  assert '<b>"' not in html


def test_an_unfinished_run_is_not_scored(copy):
  """Its results.json is from an evaluation during training."""
  longer = copy('longer/0', {'num_epochs': 20})
  (experiment,) = experiments(longer)
  assert experiment.scored == ()
  assert experiment.runs[0].problems == ('unfinished: epoch 11.0 of 20',)
  capped = copy('capped/0', {'num_train_steps': 900})
  (experiment,) = experiments(capped)
  assert 'unfinished: step 495 of 900' in experiment.runs[0].problems


def test_a_learning_rate_that_a_search_stopped_is_no_problem(copy):
  folder = copy('fig1-0.1/0', {'num_epochs': 99})
  reason = '25% training error not reached within 5.00 epochs'
  (folder / 'results.json').write_text(json.dumps({'stopped': reason}))
  (experiment,) = experiments(folder)
  (run,) = experiment.runs
  assert run.problems == ()
  assert not run.scored
  markdown = tables.markdown([experiment])
  assert f'- fig1-0.1/0: {reason}' in markdown
  assert '| stopped |' in markdown
  assert 'Excluded' not in markdown
  html = page.html([experiment])
  assert reason in html
  assert '>stopped</td>' in html


def test_a_row_says_that_a_run_resumed_and_where(copy):
  one, gpu = '1 x cpu, 1 process(es)', '1 x NVIDIA H200, 1 process(es)'
  for seed, devices in enumerate([[one], [one, one, one], [one, gpu], 'x']):
    starts = devices
    if isinstance(devices, list):
      starts = [{'step': 10 * i, 'devices': d} for i, d in enumerate(devices)]
    folder = copy(f'digits/{seed}', {'seed': seed}, {'starts': starts})
  found = experiments(folder.parent)
  text = f'seed 1 resumed 2 times; seed 2 resumed 1 time, on {one}, then {gpu}'
  assert f'| 0, 1, 2, 3 ({text}) |' in tables.markdown(found)
  assert text in page.html(found)


@pytest.mark.parametrize('stopped', ['', None, 1, [], {}])
def test_an_invalid_reason_for_a_stop_is_no_stop(copy, stopped):
  folder = copy('fig1-0.1/0')
  (folder / 'results.json').write_text(json.dumps({'stopped': stopped}))
  (experiment,) = experiments(folder)
  assert any('top1_error' in text for text in experiment.runs[0].problems)
  assert '| excluded |' in tables.markdown([experiment])


def test_marks_of_intervals_are_inside_their_axis(copy):
  """However large the changes are; differences share one axis."""
  light = {'data.lighting': 'sqrt_eigenvalue'}
  changes = {
    'base': ({}, (0.1, 0.2)),
    'no_lrn': ({'model.ablations': ['no_lrn']}, (0.9, 0.3)),
    'dark': ({'data.lighting': 'none'}, (0.11, 0.21)),
  }
  for name, (config, errors) in changes.items():
    for seed, error in enumerate(errors):
      folder = copy(f'{name}/{seed}', {**light, **config, 'seed': seed},
                    {'seed': seed, 'top1_error': error})  # fmt: skip
  rows = views.context(experiments(folder.parent.parent))['answered']
  plots = {row['claim'].what: row['plot'] for row in rows}
  assert len(plots) == 2
  for plot in plots.values():
    assert all(0 <= place <= 100 for place in plot.values())
    assert plot['low'] <= plot['mean'] <= plot['high']
  lrn, lighting = plots['Without LRN'], plots['Without PCA lighting']
  assert lrn['unchanged'] == lighting['unchanged']
  # +80 and +10 points: 45, and t (12.7) times 35; +1 in both seeds.
  assert lrn['high'] - lrn['low'] > 80
  assert lighting['high'] - lighting['low'] < 0.1
  assert 0 < lighting['mean'] - lighting['unchanged'] < 1


def test_a_run_with_other_classes_than_most_is_excluded(copy):
  folders = [copy('a/0'), copy('b/0'), copy('c/0', {'model.num_classes': 100})]
  found = {run.name: run for run in runs.read_all(runs.find(map(str, folders)))}
  assert found['a/0'].problems == found['b/0'].problems == ()
  (problem,) = found['c/0'].problems
  assert '100 classes, where other runs on digits have 10' in problem
  assert 'not compared' in page.html(
    experiments_lib.group(list(found.values()))
  )


def test_a_folder_by_two_names_and_a_seed_twice_count_once(copy, monkeypatch):
  folder = copy('a/0')
  monkeypatch.chdir(folder.parent.parent)
  found = runs.find([str(folder.parent), 'a/0', '.', 'a/../a'])
  assert len(found) == 1
  again = copy('b/0')
  (experiment,) = experiments(folder, again)
  assert [run.name for run in experiment.scored] == ['a/0']
  (twice,) = [run for run in experiment.runs if run.problems]
  assert twice.problems == ('the same experiment and seed as a/0',)


def test_another_note_makes_another_experiment(copy):
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
  assert answer.number == '-2.0 / +0.0'


def test_a_difference_says_what_both_of_its_runs_have(copy):
  """Ten crops, or a part that both lack."""
  cifar = {'model.name': 'cifar10_local', 'data.name': 'cifar10'}
  bare = {**cifar, 'model.ablations': ['no_lrn']}
  folders = [
    copy(f'{name}_{crops}/0', config, {'crops': crops})
    for name, config in (('lrn', cifar), ('bare', bare))
    for crops in (1, 10)
  ]
  for claim, found in (
    (('section 3.3', 'CIFAR-10'), ['cifar10', 'cifar10, ten crops']),
    (('section 4.1', 'Ten crops'), ['cifar10', 'cifar10, no_lrn']),
  ):
    assert sorted(a.dataset for a in answers(*claim, *folders)) == found


def test_a_learning_rate_that_one_seed_missed_is_not_the_fastest(copy):
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
  trials = figure1.figure_1(experiments(*folders)).relu
  assert [one.learning_rate for one in trials] == [0.1, 0.2]
  html = page.html(experiments(*folders))
  assert '2.00 (seed 0); not within 9.00 epochs (seed 1)' in html


def test_a_last_line_over_few_steps_does_not_count(copy):
  folder = copy('a/0')
  (folder / 'metrics.jsonl').write_text(
    ''.join(
      json.dumps({'split': 'train', 'step': step, 'epoch': step / 100,
                  'loss': 1, 'top1_error': error}) + '\n'
      for step, error in ((100, 0.5), (200, 0.5), (210, 0.1))
    )
  )  # fmt: skip
  assert logs.epochs_to(runs.read(folder).train, 0.25) is None


def test_a_table_cell_is_one_cell(copy):
  folder = copy('ensemble/0')
  config = json.loads((folder / 'config.json').read_text())
  config['members'] = ['a|b', '<!-- end of results -->']
  (folder / 'config.json').write_text(json.dumps(config))
  table = tables.markdown(experiments(folder))
  assert '<!--' not in table
  assert r'a\|b' in table


def test_commands_are_those_of_one_seed_with_its_evaluation(copy):
  commands = ['main --config.seed=3 a', 'main --config.seed=3 a --mode=eval']
  folder = copy('a/0', results={'commands': commands})
  table = tables.markdown(experiments(folder))
  assert '- a: `main a`, then `main a --mode=eval`' in table


def test_five_networks_without_a_part_are_not_those_of_table_2(copy):
  unchanged = {'model.name': 'paper', 'data.lighting': 'sqrt_eigenvalue'}
  members = [{'config': unchanged} for _ in range(5)]
  folder = copy(
    'five/0',
    {'data.name': 'imagenet2012:5.1.0', 'data.val_split': 'validation'},
    {'crops': 10, 'members': members, 'top1_error': 0.4, 'top5_error': 0.2},
  )
  change(folder / 'config.json', ('members',), list('abcde'))
  (answer,) = answers('Table 2', 'Five networks', folder)
  assert answer.number == '40.0% / 20.0%'
  assert answer.note.startswith('paper, paper')
  part = {**unchanged, 'model.ablations': ['no_lrn']}
  change(folder / 'results.json', ('members', 4, 'config'), part)
  assert answers('Table 2', 'Five networks', folder) == []


def test_only_charts_of_an_earlier_report_are_removed(tmp_path):
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'curves-mine.png').write_bytes(b'mine')
  report.main([str(DIGITS), f'--out={out}'])
  assert (out / 'curves-mine.png').exists()
  (out / 'curves-old.png').write_bytes(b'')
  report.main([str(DIGITS), f'--out={out}'])
  assert {path.name for path in out.glob('curves-*')} == {'curves-digits-0.png'}


def test_names_and_notes_are_escaped_in_the_page(copy):
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


def test_a_drop_of_the_learning_rate_is_marked():
  (experiment,) = experiments(DIGITS)
  (drop,) = logs.drops(experiment.runs[0].train)
  assert drop == (pytest.approx(9, abs=0.1), pytest.approx(0.0005))
  assert 'learning rate 0.0005' in page.html([experiment])


def test_a_long_log_is_thinned():
  lines = [{'epoch': i / 100, 'loss': float(i)} for i in range(20_000)]
  points = list(logs.curve(lines, 'loss'))
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
  for flag in ('--readme', '--results'):
    with pytest.raises(UserError, match=f'{flag}.*<!-- results -->'):
      report.main([str(DIGITS), f'--out={tmp_path / "out"}',
                   f'{flag}={tmp_path / "README.md"}'])  # fmt: skip
    with pytest.raises(UserError, match=f'cannot read .*{flag}'):
      report.main([str(DIGITS), f'--out={tmp_path / "out"}',
                   f'{flag}={tmp_path / "nowhere.md"}'])  # fmt: skip
  assert (tmp_path / 'README.md').read_text() == 'nothing'
  assert not (tmp_path / 'out').exists()


def test_runs_of_one_name_do_not_share_a_chart(tmp_path, copy):
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


def test_five_classes_or_fewer_have_no_top5_error(copy, tmp_path):
  """results.json has null: shown as '-', and no reason to exclude a run."""
  light = {'data.lighting': 'sqrt_eigenvalue', 'model.num_classes': 5}
  null = {'top5_error': None, 'train_top5_error': None}
  for seed, error in ((0, 0.2), (1, 0.3)):
    copy(f'base/{seed}', {'seed': seed, **light}, {'top1_error': error, **null})
  for seed, error in ((0, 0.1), (1, 0.2)):
    copy(f'none/{seed}', {'seed': seed, **light, 'model.dropout_rate': 0.0},
         {'top1_error': error, **null})  # fmt: skip
  folder = tmp_path / 'runs'
  found = experiments(folder)
  assert all(len(e.scored) == 2 for e in found)
  assert [answers_lib.both_errors(e) for e in found] == [
    '25.0 ± 7.1% / -',
    '15.0 ± 7.1% / -',
  ]
  (answer,) = answers('section 4.2', 'dropout', folder)
  assert answer.number == '-10.0 ± 0.0 / -'
  assert '| 25.0 ± 7.1% / - |' in tables.markdown(found)
  assert '>25.0 ± 7.1% / -</td>' in page.html(found)
  assert '| -10.0 ± 0.0 points |' in tables.summary(found)
  # Missing is not null.
  content = json.loads((folder / 'base' / '0' / 'results.json').read_text())
  del content['top5_error']
  (folder / 'base' / '0' / 'results.json').write_text(json.dumps(content))
  (problem,) = runs.read(folder / 'base' / '0').problems
  assert problem.startswith('results.json: top5_error is')


def test_links_lead_to_the_runs_of_a_pair_with_few_common_seeds(copy, tmp_path):
  light = {'data.lighting': 'sqrt_eigenvalue'}
  for seed in (0, 1):
    copy(f'base/{seed}', {'seed': seed, **light})
  copy('none/1', {'seed': 1, **light, 'model.dropout_rate': 0.0})
  html = page.html(experiments(tmp_path / 'runs'))
  links = set(re.findall(r'href="#([^"]*)"', html))
  assert links <= set(re.findall(r' id="([^"]*)"', html))
  assert len([link for link in links if link.startswith('run-')]) == 2
