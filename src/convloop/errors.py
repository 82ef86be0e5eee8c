"""What a user can get wrong, each with its own exit code.

ConvloopError
├── ParamsError     2   a key, value or combination in params.yaml
├── DataError       3   missing, damaged or unusable data and files between stages
├── DeviceError     4   a strategy or accelerator that this machine cannot give
├── TrackingError   5   the MLflow store or server
├── TrainingError   6   training could not go on (the loss was nan)
│   └── LostRankError   a process of this training was lost: a restart goes on
├── OutputError     7   a file or folder that cannot be written
├── PipelineError   8   dvc or git failed or are not set up
└── BusyError      75   another process holds the lock

Only `cli` prints them, without a traceback. Any other exception is a bug of ours and keeps its traceback.
"""


class ConvloopError(Exception):
    """Say where, what was received, what is allowed and what to type next."""

    exit_code = 1


class ParamsError(ConvloopError):
    exit_code = 2


class DataError(ConvloopError):
    exit_code = 3


class DeviceError(ConvloopError):
    exit_code = 4


class TrackingError(ConvloopError):
    exit_code = 5


class TrainingError(ConvloopError):
    exit_code = 6


class LostRankError(TrainingError):
    """Another process was lost, which says nothing against starting all again."""


class OutputError(ConvloopError):
    exit_code = 7


class PipelineError(ConvloopError):
    exit_code = 8


class BusyError(ConvloopError):
    exit_code = 75
