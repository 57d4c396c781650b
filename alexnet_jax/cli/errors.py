"""What a person is told when a run cannot go on, and the exit status."""


class UserError(Exception):
  """A usage or configuration error: one line that says how to mend it."""

  status = 2


class TrainingStopped(Exception):
  """A guard stopped the training: what was seen, and where."""

  status = 3


class Interrupted(Exception):
  """The run was told to stop by a signal, after its state was saved."""

  def __init__(self, message: str, signal_number: int):
    super().__init__(message)
    self.status = 128 + signal_number


class ProcessLost(Exception):
  """Another process of the same run has ended, or cannot be reached."""

  status = 4


class StorageError(Exception):
  """The workdir cannot be read or written."""

  status = 3
