"""The scripts in launch/ with stubs of the tools they call, and the manifests.

The stubs are small programs, first in PATH, that record their calls. `srun`
also starts the processes, as SLURM does.
"""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models import jobset_v1alpha2_job_set

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / 'launch'
BIN = pathlib.Path(sys.executable).parent
KUBERNETES = '1.37'

VM = ('--name=net', '--zone=us-west4-a', '--poll_seconds=0')
UP = ('up', *VM, '--topology=v5e:4x4', '--workdir=gs://bucket/run')
GKE = (
  'apply',
  '--name=net',
  '--topology=v5e:4x4',
  '--image=us-docker.pkg.dev/project/images/alexnet:1',
  '--workdir=gs://bucket/run',
)

# Takes an answer from the first line of a file, and keeps the last line.
GCLOUD = r"""
answer() {
  local file="$CALLS.$1" line
  line="$(head -n 1 "$file" 2> /dev/null)" || line="$2"
  [ "$(wc -l < "$file" 2> /dev/null || echo 0)" -lt 2 ] || sed -i 1d "$file"
  echo "${line:-$2}"
}
case "$*" in
  *'queued-resources describe'*)
    state="$(answer states ACTIVE)"
    [ "$state" != MISSING ] || exit 1
    echo "$state"
    ;;
  *'tpu-vm describe'*) answer nodes READY ;;
  *' run '*) exit "$(answer statuses 0)" ;;
esac
"""

# As srun(1), it passes on signals, and returns the highest status of all tasks,
# or 128 + the signal that ended one. Like SLURM's, the tasks are sessions.
# (XLA_FLAGS: one device, and half the time to compile.)
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys, time

assert sys.argv[1] == '--kill-on-bad-exit=1'
tasks, stopping = [], []
# Before the tasks start: the test sends SIGTERM once they print.
signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))

def send(number):
  for task in tasks:
    if task.poll() is None:
      os.killpg(task.pid, number)

for i in range(2):
  tasks.append(subprocess.Popen(
    sys.argv[2:],
    start_new_session=True,
    env=dict(
      os.environ,
      SLURM_STEP_NODELIST='localhost',
      SLURM_JOB_NUM_NODES='1',
      SLURM_NTASKS='2',
      SLURM_PROCID=str(i),
      SLURM_LOCALID=str(i),
      XLA_FLAGS='--xla_backend_optimization_level=0 '
      '--xla_llvm_disable_expensive_passes=true',
    ),
  ))
while None in (codes := [task.poll() for task in tasks]):
  if stopping:
    send(stopping.pop())
  if any(codes):
    time.sleep(0.3)
    send(signal.SIGKILL)
  time.sleep(0.02)
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""


class Machine:
  """Stubs in a folder, and the record of their calls."""

  def __init__(self, folder):
    self.bin = folder / 'bin'
    self.bin.mkdir()
    self.log = folder / 'calls'
    self.environment = {
      **{k: v for k, v in os.environ.items() if not k.startswith('SLURM_')},
      'PATH': f'{self.bin}:{os.environ["PATH"]}',
      'CALLS': str(self.log),
    }
    for name in ('gcloud', 'git', 'kubectl', 'sbatch', 'scontrol', 'srun'):
      self.stub(name, GCLOUD if name == 'gcloud' else '')

  def stub(self, name, then):
    self.program(name, f'#!/bin/bash\necho "{name} $*" >> "$CALLS"\n{then}\n')

  def program(self, name, text):
    path = self.bin / name
    path.write_text(text)
    path.chmod(0o755)
    return path

  def answers(self, **files):
    for name, lines in files.items():
      path = pathlib.Path(f'{self.log}.{name}')
      path.write_text(''.join(f'{line}\n' for line in lines))

  def run(self, script, *arguments, status=0, **environment):
    done = subprocess.run(
      ['bash', str(LAUNCH / script), *arguments],
      cwd=ROOT,
      env={**self.environment, **environment},
      text=True,
      capture_output=True,
      timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done

  def calls(self, *words):
    """Returns the calls that contain all the words."""
    if not self.log.exists():
      return []
    lines = self.log.read_text().splitlines()
    return [line for line in lines if all(word in line for word in words)]


@pytest.fixture
def machine(tmp_path):
  return Machine(tmp_path)


def test_shell_passes_shellcheck():
  folders = LAUNCH, ROOT / 'benchmarks', ROOT / 'tests'
  scripts = [str(path) for f in folders for path in sorted(f.glob('*.sh'))]
  assert len(scripts) == 7
  done = subprocess.run(
    [BIN / 'shellcheck', '--external-sources', *scripts],
    cwd=ROOT,
    text=True,
    capture_output=True,
  )
  assert done.returncode == 0, done.stdout


def test_dockerfile_passes_hadolint():
  # To build it would need a container runtime.
  done = subprocess.run(
    [BIN / 'hadolint', LAUNCH / 'Dockerfile'], text=True, capture_output=True
  )
  assert (done.returncode, done.stdout) == (0, '')
  copied = re.findall(
    r'^COPY ([^-].*) \S+$', (LAUNCH / 'Dockerfile').read_text(), re.M
  )
  for name in ' '.join(copied).split():
    assert (ROOT / name).exists(), name


def test_each_file_names_what_it_was_checked_against():
  files = [*LAUNCH.glob('*.sh'), *LAUNCH.glob('gke/*'), LAUNCH / 'Dockerfile']
  for path in (*files, LAUNCH / 'README.md'):
    text = ' '.join(re.sub(r'^#', '', path.read_text(), flags=re.M).split())
    assert re.search(r'[Cc]hecked on 2\d{3}-\d\d-\d\d', text), path


@pytest.mark.parametrize(
  ('script', 'arguments', 'expected'),
  [
    (
      'tpu_vm.sh',
      (*UP, '--spot', '--project=p', '--', '--config.data.mean=(1.0, 2.0)'),
      [
        'queued-resources create net --node-id=net --zone=us-west4-a '
        '--project=p --accelerator-type=v5litepod-16 '
        '--runtime-version=v2-alpha-tpuv5-lite --spot',
        'queued-resources describe net --zone=us-west4-a --project=p',
        'git archive --prefix=alexnet_jax/ --output=runs/net.tar.gz HEAD',
        'tpu-vm scp runs/net.tar.gz net: --zone=us-west4-a --project=p '
        '--worker=all',
        'tpu-vm ssh net --zone=us-west4-a --project=p --worker=all',
        'launch/tpu_worker.sh install',
        'make venv EXTRAS=tpu PYTHON=',
        'launch/tpu_worker.sh run ',
        '.venv/bin/python -m alexnet_jax.main --config=configs/imagenet.py '
        '--workdir=gs://bucket/run --distributed --config.data.mean=(1.0, 2.0)',
        'queued-resources delete net --zone=us-west4-a --project=p '
        '--force --quiet',
      ],
    ),
    (
      'gke.sh',
      GKE,
      ["kubectl apply --filename=- <<'MANIFEST'", 'kind: JobSet', 'MANIFEST'],
    ),
    (
      'gke.sh',
      ('logs', '--name=net'),
      ['kubectl logs --namespace=default --selector=jobset.sigs.k8s.io/'],
    ),
    (
      'gke.sh',
      ('status', '--name=net', '--namespace=team'),
      ['kubectl get jobsets.jobset.x-k8s.io net --namespace=team'],
    ),
    (
      'gke.sh',
      ('delete', '--name=net'),
      ['kubectl delete jobsets.jobset.x-k8s.io net --namespace=default'],
    ),
    (
      'slurm.sh',
      ('--config=configs/digits.py', '--config.data.mean=(1.0, 2.0)'),
      [
        'sbatch launch/slurm.sh --config=configs/digits.py',
        'srun --kill-on-bad-exit=1',
        "-m alexnet_jax.main --distributed --config=configs/digits.py '--con",
        'scontrol requeue',
      ],
    ),
  ],
)
def test_dry_run_prints_all_commands_and_runs_none(
  machine, script, arguments, expected
):
  first = ['--dry_run'] if script == 'slurm.sh' else []
  last = [] if first else ['--dry_run']
  where = arguments.index('--') if '--' in arguments else len(arguments)
  printed = machine.run(
    script, *first, *arguments[:where], *last, *arguments[where:]
  ).stdout
  at = 0
  for words in expected:
    assert words in printed[at:], (words, printed)
    at = printed.index(words, at) + len(words)
  assert machine.calls() == []
  # It can be pasted into a shell.
  assert (
    subprocess.run(['bash', '-n'], input=printed, text=True).returncode == 0
  )


@pytest.mark.parametrize(
  ('script', 'arguments', 'tool'),
  [('tpu_vm.sh', UP, 'gcloud'), ('gke.sh', GKE, 'kubectl')],
)
def test_a_missing_tool(tmp_path, script, arguments, tool):
  for name in ('bash', 'cat', 'date', 'dirname', 'sed'):
    (tmp_path / name).symlink_to(shutil.which(name))
  command = ['bash', LAUNCH / script, *arguments]
  bare = {'env': {'PATH': str(tmp_path)}, 'text': True, 'capture_output': True}
  done = subprocess.run(command, **bare)
  assert done.returncode == 2
  assert done.stderr.startswith(f'launch: {tool} is not installed')
  assert done.stderr.count('\n') == 1
  assert subprocess.run([*command, '--dry_run'], **bare).returncode == 0


@pytest.mark.parametrize(
  ('topology', 'accelerator', 'runtime', 'several', 'label', 'pods', 'chips'),
  [
    ('v5e:1x1', 'v5litepod-1', 'v2-alpha-tpuv5-lite', 0, 'v5-lite-pod', 1, 1),
    ('v5e:2x4', 'v5litepod-8', 'v2-alpha-tpuv5-lite', 0, 'v5-lite-pod', 2, 4),
    ('v5e:4x4', 'v5litepod-16', 'v2-alpha-tpuv5-lite', 1, 'v5-lite-pod', 4, 4),
    ('v6e:2x2', 'v6e-4', 'v2-alpha-tpuv6e', 0, 'v6e-', 1, 4),
    ('v6e:16x16', 'v6e-256', 'v2-alpha-tpuv6e', 1, 'v6e-', 64, 4),
    ('v4:2x2x1', 'v4-8', 'tpu-ubuntu2204-base', 0, 'v4-pod', 1, 4),
    ('v4:2x2x2', 'v4-16', 'tpu-ubuntu2204-base', 1, 'v4-pod', 2, 4),
    ('v5p:2x2x1', 'v5p-8', 'v2-alpha-tpuv5', 0, 'v5p-', 1, 4),
    ('v5p:4x4x4', 'v5p-128', 'v2-alpha-tpuv5', 1, 'v5p-', 16, 4),
  ],
)
def test_topologies(
  machine, topology, accelerator, runtime, several, label, pods, chips
):
  flag = f'--topology={topology}'
  printed = machine.run('tpu_vm.sh', *UP, flag, '--dry_run').stdout
  assert f'--accelerator-type={accelerator} ' in printed
  assert f'--runtime-version={runtime}\n' in printed
  assert ('--distributed' in printed) == bool(several)
  _, jobset = manifests(machine, flag)
  job = job_of(jobset)
  pod = job['template']['spec']
  assert job['parallelism'] == job['completions'] == pods
  selector = pod['nodeSelector']
  gke_label = f'tpu-{label}slice'
  assert selector['cloud.google.com/gke-tpu-accelerator'] == gke_label
  shape = topology.split(':')[1]
  assert selector['cloud.google.com/gke-tpu-topology'] == shape
  container = pod['containers'][0]
  assert container['resources']['limits'] == {'google.com/tpu': chips}
  assert ('--distributed' in container['args']) == (pods > 1)


@pytest.mark.parametrize(
  ('script', 'arguments', 'complaint'),
  [
    ('tpu_vm.sh', ('start',), 'usage: launch/tpu_vm.sh create|wait|'),
    ('tpu_vm.sh', (*UP, '--topology=v5e:3x3'), 'v5e and v6e: 1x1 2x2 2x4'),
    ('tpu_vm.sh', (*UP, '--topology=v5litepod-16'), '--topology=v5e:4x4'),
    ('tpu_vm.sh', (*UP, '--workdir=/tmp/run'), 'gs://BUCKET/DIR'),
    ('tpu_vm.sh', (*UP, '--config.batch_size=8'), 'follow --'),
    ('tpu_vm.sh', (*UP, '--name=Run'), 'lower-case'),
    ('gke.sh', (*GKE, '--image='), 'the cluster can pull'),
    ('gke.sh', (*GKE, '--', '--x=a\nb'), 'control character'),
    ('slurm.sh', ('--config=configs/digits.py',), 'sbatch launch/slurm.sh'),
  ],
)
def test_usage_errors_name_the_cure(machine, script, arguments, complaint):
  done = machine.run(script, *arguments, status=2)
  assert complaint in done.stderr
  assert done.stdout == ''
  assert machine.calls() == []


def test_up_starts_again_after_a_preemption(machine):
  machine.answers(
    states=[
      *('MISSING', 'WAITING_FOR_RESOURCES', 'ACTIVE', 'SUSPENDING'),
      *('PROVISIONING', 'SUSPENDED', 'SUSPENDED', 'ACTIVE'),
    ],
    statuses=[143, 0],
  )
  machine.run('tpu_vm.sh', *UP)
  calls = [
    re.sub(r'^gcloud compute tpus (queued-resources|tpu-vm) ', '', call)
    for call in machine.calls('gcloud')
    if ' describe ' not in call
  ]
  steps = ['run' if ' run ' in call else call.split()[0] for call in calls]
  # The second slice was preempted before it could be used.
  slice_used = ['create', 'scp', 'ssh', 'run', 'delete']
  assert steps == [*slice_used, 'create', 'delete', *slice_used]
  flags = {call.split(' run ')[1] for call in calls if ' run ' in call}
  for flag in flags:
    assert '--workdir=gs://bucket/run --distributed' in flag


def test_up_notices_a_preempted_node(machine):
  machine.answers(
    states=['MISSING', 'ACTIVE'], nodes=['PREEMPTED'], statuses=[255, 0]
  )
  machine.run('tpu_vm.sh', *UP)
  assert len(machine.calls(' create ')) == len(machine.calls(' delete ')) == 2


@pytest.mark.parametrize('status', [2, 3])
def test_up_does_not_restart_what_would_fail_again(machine, status):
  machine.answers(states=['MISSING', 'ACTIVE'], statuses=[status])
  done = machine.run('tpu_vm.sh', *UP, status=status)
  assert len(machine.calls(' run ')) == 1
  assert machine.calls(' delete ') == []
  assert 'would fail again' in done.stderr


def test_up_gives_up_after_max_restarts(machine):
  machine.answers(states=['MISSING', 'ACTIVE'], statuses=[134])
  machine.run('tpu_vm.sh', *UP, '--max_restarts=2', status=134)
  assert len(machine.calls(' run ')) == 3
  assert len(machine.calls(' create ')) == 1
  assert machine.calls(' delete ') == []


def test_up_stops_if_the_request_fails(machine):
  machine.answers(states=['MISSING', 'FAILED'])
  machine.run('tpu_vm.sh', *UP, status=1)
  assert machine.calls('tpu-vm') == []


def test_up_uses_an_existing_slice(machine):
  machine.run('tpu_vm.sh', *UP)
  assert machine.calls(' create ') == []
  assert len(machine.calls(' run ')) == 1


@pytest.fixture
def worker(machine, tmp_path):
  """launch/tpu_worker.sh in its own clone, with a command to run."""
  clone = tmp_path / 'clone'
  (clone / 'launch').mkdir(parents=True)
  script = shutil.copy(LAUNCH / 'tpu_worker.sh', clone / 'launch')
  command = machine.program(
    'command',
    '#!/bin/bash\necho "$*" >> "$CALLS"; echo begun; sleep 1\nexit "${@: -1}"',
  )
  environment = {**machine.environment, 'TPU_WORKER_PYTHON': str(command)}

  def start(*arguments):
    return subprocess.Popen(
      ['bash', script, *arguments],
      env=environment,
      stdout=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  return start


def test_worker_survives_a_dropped_connection(machine, worker):
  first = worker('run', '7', '--flag=a b', '3')
  assert first.stdout.readline() == 'begun\n'
  os.killpg(first.pid, signal.SIGKILL)
  first.communicate()
  again = worker('run', '7', '--flag=a b', '3')
  printed, _ = again.communicate(timeout=30)
  assert again.returncode == 3
  assert 'following it\nbegun\n' in printed
  # Also after its end: gcloud calls again with the same ID.
  late = worker('run', '7', '--flag=a b', '3')
  assert 'begun' in late.communicate(timeout=30)[0]
  assert late.returncode == 3
  assert machine.calls() == ['-m alexnet_jax.main --flag=a b 3']


def test_worker_installs_a_newer_python(machine, worker):
  for name in ('python3', 'python3.11', 'python3.12', 'python3.13'):
    machine.stub(
      name,
      'case "$*" in -c*) exit 1 ;; *find*) echo /newer/python3.11 ;; esac',
    )
  machine.stub('make', '')
  install = worker('install')
  install.communicate(timeout=30)
  assert install.returncode == 0
  assert machine.calls('uv python install')
  assert machine.calls()[-1] == (
    'make venv EXTRAS=tpu PYTHON=/newer/python3.11'
  )


def manifests(machine, *more, flags=()):
  """Returns what gke.sh would apply: a ServiceAccount and a JobSet."""
  printed = machine.run('gke.sh', *GKE, *more, '--dry_run', '--', *flags).stdout
  text = printed.split('\n', 1)[1].removesuffix('MANIFEST\n')
  assert not re.search('__[A-Z_]*__', re.sub('(#|args:).*', '', text))
  return list(yaml.safe_load_all(text))


def job_of(jobset):
  [replicated] = jobset['spec']['replicatedJobs']
  return replicated['template']['spec']


@pytest.mark.parametrize('more', [(), ('--spot',)])
def test_kubernetes_objects_are_valid(machine, more):
  account, jobset = manifests(machine, *more, '--namespace=team')
  kubernetes_validate.validate(account, KUBERNETES, strict=True)
  job = {
    'apiVersion': 'batch/v1',
    'kind': 'Job',
    'metadata': {'name': 'train'},
    'spec': job_of(jobset),
  }
  kubernetes_validate.validate(job, KUBERNETES, strict=True)
  pod = job['spec']['template']['spec']
  assert pod['serviceAccountName'] == account['metadata']['name']
  spot = 'cloud.google.com/gke-spot'
  assert pod['nodeSelector'].get(spot) == ('true' if more else None)
  assert [t['key'] for t in pod.get('tolerations', [])] == [spot] * len(more)
  assert {o['metadata']['namespace'] for o in (account, jobset)} == {'team'}


def test_jobset_is_valid(machine):
  # The types are published from JobSet's schema. They drop unknown fields.
  _, jobset = manifests(machine)
  job_of(jobset)['template'] = {'spec': None}  # Checked above, in a Job.
  job_of(jobset)['template'].clear()
  read = jobset_v1alpha2_job_set.JobsetV1alpha2JobSet.from_dict(jobset)
  assert read.to_dict() == jobset
  misspelled = json.loads(json.dumps(jobset).replace('maxRestarts', 'restarts'))
  read = jobset_v1alpha2_job_set.JobsetV1alpha2JobSet.from_dict(misspelled)
  assert read.to_dict() != misspelled


@pytest.mark.parametrize(
  ('status', 'disrupted', 'expected'),
  [
    (2, False, 'FailJobSet'),
    (3, False, 'FailJobSet'),
    (143, False, 'RestartJobSetAndIgnoreMaxRestarts'),
    (143, True, 'RestartJobSetAndIgnoreMaxRestarts'),
    (137, True, 'RestartJobSetAndIgnoreMaxRestarts'),
    (137, False, 'RestartJobSet'),
    (134, False, 'RestartJobSet'),
    (1, False, 'RestartJobSet'),
  ],
)
def test_failures_that_the_cluster_restarts(
  machine, status, disrupted, expected
):
  _, jobset = manifests(machine)
  job = job_of(jobset)
  assert job['backoffLimit'] == 0
  assert job['template']['spec']['restartPolicy'] == 'Never'
  # As in Kubernetes' controller: the first rule that matches a pod sets the
  # Job's reason and message.
  reason = 'BackoffLimitExceeded'
  message = 'Job has reached the specified backoff limit'
  for index, rule in enumerate(job['podFailurePolicy']['rules']):
    assert rule['action'] == 'FailJob'
    if status in rule.get('onExitCodes', {}).get('values', []):
      message = f'Container train for pod a/b failed with exit code {status}'
    elif disrupted and 'onPodConditions' in rule:
      message = 'Pod a/b has condition DisruptionTarget'
    else:
      continue
    message += f' matching FailJob rule at index {index}'
    reason = 'PodFailurePolicy'
    break
  # As in JobSet's controller.
  policy = jobset['spec']['failurePolicy']
  assert policy['maxRestarts'] == 5
  assert policy['restartStrategy'] == 'BlockingRecreate'
  action = 'RestartJobSet'
  for rule in policy['rules']:
    patterns = rule.get('onJobFailureMessagePatterns', [''])
    if reason in rule['onJobFailureReasons'] and any(
      re.search(pattern, message) for pattern in patterns
    ):
      action = rule['action']
      break
  assert action == expected


def test_gke_passes_flags_on_unchanged(machine, tmp_path):
  odd = ('--config.a="x\\y"', '--config.b=(1, 2) & __NAME__ $HOME: {#}')
  _, jobset = manifests(machine, flags=odd)
  args = job_of(jobset)['template']['spec']['containers'][0]['args']
  assert tuple(args[-2:]) == odd
  machine.stub('kubectl', f'cat > {tmp_path}/applied')
  machine.run('gke.sh', *GKE, '--', *odd)
  applied = yaml.safe_load_all((tmp_path / 'applied').read_text())
  assert list(applied)[1] == jobset


def slurm(machine, tasks, status=0, **environment):
  """Runs slurm.sh with two tasks, which are shell commands."""
  machine.program('srun', SRUN)
  python = machine.program(
    'task_python', f'#!/bin/bash\ncase $SLURM_PROCID in\n{tasks}\nesac\n'
  )
  return machine.run(
    'slurm.sh', status=status, SLURM_JOB_ID='7', PYTHON=str(python),
    **environment,
  )  # fmt: skip


@pytest.mark.parametrize(
  ('tasks', 'environment', 'status', 'requeued'),
  [
    ('*) exit 0 ;;', {}, 0, False),
    # The other task is killed, with a higher status.
    ('0) exit 2 ;; 1) sleep 60 ;;', {}, 2, False),
    ('1) exit 3 ;; 0) kill -ABRT $$ ;;', {}, 3, False),
    ('*) exit 143 ;;', {}, 143, True),
    ('1) kill -KILL $$ ;; 0) sleep 60 ;;', {}, 137, True),
    ('*) exit 143 ;;', {'SLURM_RESTART_COUNT': '49'}, 143, True),
    ('*) exit 143 ;;', {'SLURM_RESTART_COUNT': '50'}, 143, False),
  ],
)
def test_jobs_that_slurm_requeues(
  machine, tasks, environment, status, requeued
):
  done = slurm(machine, tasks, status, **environment)
  expected = ['scontrol requeue Incomplete 7'] if requeued else []
  assert machine.calls() == expected, done.stderr


def test_slurm_saves_and_requeues_after_sigterm(machine):
  machine.program('srun', SRUN)
  python = machine.program(
    'task_python',
    '#!/bin/bash\ntrap "sleep 0.2; echo saved; exit 143" TERM\necho begun\n'
    'for i in {1..200}; do sleep 0.1; done',
  )
  job = subprocess.Popen(
    ['bash', LAUNCH / 'slurm.sh', '--config=configs/digits.py'],
    cwd=ROOT,
    env={**machine.environment, 'SLURM_JOB_ID': '7', 'PYTHON': str(python)},
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  )
  assert [job.stdout.readline() for _ in range(2)] == ['begun\n'] * 2
  os.killpg(job.pid, signal.SIGTERM)  # The script and srun.
  printed, _ = job.communicate(timeout=30)
  assert printed.count('saved') == 2
  assert job.returncode == 143
  assert machine.calls() == ['scontrol requeue Incomplete 7']


@pytest.mark.long
def test_slurm_trains(machine, tmp_path):
  """Two processes of one run find each other by SLURM's variables."""
  machine.program('srun', SRUN)
  workdir = tmp_path / 'run'
  began = time.monotonic()
  done = machine.run(
    'slurm.sh',
    '--config=tests/narrow.py',
    '--config.num_train_steps=4',
    '--config.batch_size=32',
    '--config.log_every_steps=1',
    f'--workdir={workdir}',
    SLURM_JOB_ID=str(random.randrange(4096)),  # JAX makes a port of it.
    PYTHON=sys.executable,
  )
  print(f'{time.monotonic() - began:.0f} s')
  assert re.search(r'step +4/4', done.stdout), done.stdout
  assert json.loads((workdir / 'results.json').read_text())
  # Of both processes: only the first one writes.
  assert len((workdir / 'metrics.jsonl').read_text().splitlines()) >= 4
  assert machine.calls() == []
