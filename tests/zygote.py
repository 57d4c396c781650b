"""Starts commands of this package like `python -m`, but faster.

Importing JAX, TensorFlow and Orbax takes most of a short run's time. Here one
process imports them once and forks for each command, before any of them has
started a thread. The children are real processes, to be killed, stopped and
measured.
"""

import atexit
import contextlib
import functools
import itertools
import json
import os
import pathlib
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time


class Process:
  """A started command; like `subprocess.Popen`, with its output in files."""

  def __init__(self, channel: socket.socket, pid: int, folder: pathlib.Path):
    self._channel = channel
    self._folder = folder
    self.pid = pid
    self.returncode: int | None = None

  @property
  def stdout(self) -> str:
    return (self._folder / 'stdout').read_text()

  @property
  def stderr(self) -> str:
    return (self._folder / 'stderr').read_text()

  @property
  def output(self) -> str:
    return self.stdout + self.stderr

  def poll(self) -> int | None:
    if self.returncode is None and select.select([self._channel], [], [], 0)[0]:
      with self._channel:
        self.returncode = int(self._channel.recv(100) or b'-1')
    return self.returncode

  def wait(self, timeout: float = 300) -> int:
    until = time.monotonic() + timeout
    while self.poll() is None:
      if time.monotonic() > until:
        self.send_signal(signal.SIGKILL)
        raise TimeoutError(f'no end in {timeout} s:\n{self.stdout}')
      time.sleep(0.02)
    return self.returncode

  def wait_for(self, words: str, timeout: float = 300) -> None:
    """Waits until the words appear on stdout or stderr."""
    until = time.monotonic() + timeout
    while words not in self.output:
      if self.poll() is not None or time.monotonic() > until:
        raise AssertionError(
          f'ended, or {timeout} s passed, without {words!r}:\n{self.output}'
        )
      time.sleep(0.01)

  def send_signal(self, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.kill(self.pid, number)


class Zygote:
  """The process that forks; one for each test process."""

  def __init__(self):
    self._folder = tempfile.TemporaryDirectory()
    self._address = os.path.join(self._folder.name, 'socket')
    self._numbers = itertools.count()
    # Python buffers its output by default; the tests should run like that.
    inherited = {k: v for k, v in os.environ.items() if k != 'PYTHONUNBUFFERED'}
    self._process = subprocess.Popen(
      [sys.executable, __file__, self._address],
      stdin=subprocess.PIPE,
      env={
        **inherited,
        'TF_CPP_MIN_LOG_LEVEL': '3',
        # All runs compile the same step. (JAX reads this on import, so it
        # cannot be an argument of `start`.)
        'JAX_COMPILATION_CACHE_DIR': os.path.join(self._folder.name, 'cache'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.2',
      },
    )
    while not os.path.exists(self._address):
      assert self._process.poll() is None, 'the zygote has died'
      time.sleep(0.05)

  def start(
    self,
    *arguments: str,
    module: str,
    env: dict[str, str],
    file_limit: int | None,
  ) -> Process:
    """Starts a command with this process's environment plus `env`."""
    folder = pathlib.Path(self._folder.name) / str(next(self._numbers))
    folder.mkdir()
    for name in ('stdout', 'stderr'):
      (folder / name).touch()
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(self._address)
    request = {
      'argv': [module, *arguments],
      'env': {**os.environ, **env},
      'cwd': os.getcwd(),
      'folder': str(folder),
      'file_limit': file_limit,
    }
    channel.sendall(json.dumps(request).encode() + b'\n')
    return Process(channel, int(channel.recv(100)), folder)

  def close(self) -> None:
    with self._process:
      self._process.stdin.close()  # Ends it and the commands.
    self._folder.cleanup()


@functools.cache
def _zygote() -> Zygote:
  zygote = Zygote()
  atexit.register(zygote.close)
  return zygote


def start(
  *arguments: str,
  devices: int = 1,
  module: str = 'alexnet_jax.main',
  file_limit: int | None = None,
  env: dict[str, str] | None = None,
) -> Process:
  """Starts `python -m MODULE ARGUMENTS`.

  Args:
    *arguments: of the command.
    devices: number of CPU devices that JAX sees.
    module: the command.
    file_limit: maximum size of a file in bytes, like `ulimit -f`.
    env: more of the environment.
  """
  flags = (
    f'--xla_force_host_platform_device_count={devices}'
    # Compiling takes most of the remaining time of a short run.
    ' --xla_backend_optimization_level=0'
  )
  return _zygote().start(
    *arguments,
    module=module,
    env={'XLA_FLAGS': flags, **(env or {})},
    file_limit=file_limit,
  )


def preload_failing_calls(folder: pathlib.Path) -> None:
  """Lets what is started make calls fail: `failing_calls.c`, which it compiles.

  Call it before the first start, as all commands fork from one process.

  Args:
    folder: for the library.
  """
  library = folder / 'failing_calls.so'
  source = pathlib.Path(__file__).with_suffix('.c').with_stem('failing_calls')
  subprocess.run(
    ['cc', '-shared', '-fPIC', '-O2', '-o', library, source, '-ldl'], check=True
  )
  os.environ['LD_PRELOAD'] = str(library)


def start_together(
  number: int,
  *arguments: str,
  devices: int = 1,
  odd: int | None = None,
  arguments_of_odd: tuple[str, ...] = (),
  env_of_odd: dict[str, str] | None = None,
) -> list[Process]:
  """Starts the processes of one run.

  Args:
    number: of processes.
    *arguments: of the command.
    devices: number of devices of each process.
    odd: the number of a process that is unlike the others.
    arguments_of_odd: more arguments of that process.
    env_of_odd: more of its environment.
  """
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  return [
    start(
      *arguments,
      '--distributed',
      f'--coordinator_address=localhost:{port}',
      f'--num_processes={number}',
      f'--process_id={i}',
      *(arguments_of_odd if i == odd else ()),
      devices=devices,
      env=env_of_odd if i == odd else None,
    )
    for i in range(number)
  ]


def _child(request) -> None:
  """Becomes the command; never returns."""
  status = 1
  try:
    for name, descriptor in (('stdout', 1), ('stderr', 2)):
      file = os.open(
        os.path.join(request['folder'], name), os.O_WRONLY | os.O_CREAT, 0o600
      )
      os.dup2(file, descriptor)
    os.environ.clear()
    os.environ.update(request['env'])
    os.chdir(request['cwd'])
    if request['file_limit']:
      limit = request['file_limit'], resource.RLIM_INFINITY
      resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    sys.argv = request['argv']
    runpy.run_module(request['argv'][0], run_name='__main__', alter_sys=True)
    status = 0
  except SystemExit as error:
    status = error.code if isinstance(error.code, int) else 0
  except BaseException:
    import traceback

    traceback.print_exc()
  # Like `sys.exit`, but without the zygote's own clean-up.
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


def main(address: str) -> None:
  import alexnet_jax.main
  import alexnet_jax.train  # noqa: F401

  del sys.modules['alexnet_jax.main']  # Each command runs it, with its flags.
  from absl import flags

  of_main = flags.FLAGS.flags_by_module_dict()['alexnet_jax.main']
  for flag in list(of_main):
    delattr(flags.FLAGS, flag.name)
  server = socket.socket(socket.AF_UNIX)
  server.bind(address + '.new')
  server.listen()
  os.rename(address + '.new', address)
  running: dict[int, socket.socket] = {}
  while True:
    readable, _, _ = select.select([server, sys.stdin], [], [], 0.02)
    if sys.stdin in readable:  # The tests have ended.
      for pid in running:
        os.kill(pid, signal.SIGKILL)
      return
    if server in readable:
      channel, _ = server.accept()
      with channel.makefile() as lines:
        request = json.loads(lines.readline())
      pid = os.fork()
      if not pid:
        server.close()
        _child(request)
      channel.sendall(str(pid).encode())
      running[pid] = channel
    while running:
      pid, status = os.waitpid(-1, os.WNOHANG)
      if not pid:
        break
      with running.pop(pid) as channel, contextlib.suppress(OSError):
        code = os.waitstatus_to_exitcode(status)
        channel.sendall(str(code).encode())


if __name__ == '__main__':
  main(sys.argv[1])
