"""The errors that end a command with one line and an exit status."""


class UserError(Exception):
  """A usage or configuration error; the message says how to fix it."""

  status = 2


class TrainingStopped(Exception):
  """A guard stopped the training; the message says at which step and why."""

  status = 3


class StorageError(Exception):
  """The workdir cannot be read or written."""

  status = 3


class ProcessLost(Exception):
  """Another process of the same run has ended or cannot be reached."""

  status = 4


class Interrupted(Exception):
  """A signal stopped the run after its state was saved."""

  def __init__(self, message: str, signal_number: int):
    super().__init__(message)
    self.status = 128 + signal_number
