"""Children that never outlive their parent, and the command started from within itself."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def follow_parent() -> None:
    """End with DVC or torchrun, or with the lead where this is another rank (Linux): killing `dvc` alone ends no stage."""
    if not sys.platform.startswith("linux"):
        return
    if os.environ.get("LOCAL_RANK", "0") != "0" or os.environ.get("RANK", "0") != "0":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    elif "DVC_STAGE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_with_parent(parent_pid: int) -> None:
    """End at once when the process that started this one ends (Linux), however that came about."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the line above was reached
        os._exit(1)


def environment() -> dict[str, str]:
    """Give the environment in which `python`, `dvc` and `mlflow` are this interpreter's own, also under cron."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def run_convloop(*words: str) -> int:
    """Run one of our own words as a child and give its exit code."""
    return run([sys.executable, "-m", "convloop", *words], environment())


def run(command: list[str], variables: dict[str, str], *, end_with_us: bool = False) -> int:
    """Run a child and give its exit code as a shell would; asked to stop, wait until the child has ended.

    Args:
        end_with_us: ask it to end when this process ends, however that comes about (Linux).
    """
    follows = end_with_us and sys.platform.startswith("linux")
    library = ctypes.CDLL(None)
    child = subprocess.Popen(
        command,
        env=variables,
        preexec_fn=(lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)) if follows else None,
    )
    try:
        exit_code = child.wait()
        return exit_code if exit_code >= 0 else 128 - exit_code
    except KeyboardInterrupt:  # the terminal has interrupted the child as well
        child.wait()
        raise
    except BaseException:
        child.terminate()
        child.wait()
        raise
