"""Where a model comes from: commit, inputs, versions, machine."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from convloop.core.digest import dvc_md5

_PACKAGES = ("torch", "lightning", "torchmetrics", "mlflow", "dvc", "numpy")
# What a pipeline writes while it runs does not make the code of a model uncertain.
_NOT_CODE = (":!dvc.lock", ":!reports")


def describe(project: Path, params: dict[str, Any], inputs: tuple[str, ...]) -> dict[str, Any]:
    """Collect what made a model, at the start of its training, so that later changes cannot blur it.

    Returns:
        `params` (flat), `inputs` (path -> the md5 that DVC gives it), `tags` (commit, versions, machine).
    """
    commit = _git(project, "rev-parse", "HEAD")
    dirty = bool(_git(project, "status", "--porcelain", "--untracked-files=no", "--", ".", *_NOT_CODE))
    tags = {
        "mlflow.source.git.commit": commit or "none",
        "git.dirty": str(dirty).lower(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "python": platform.python_version(),
        "machine": platform.platform(),
        **{f"version.{name}": version(name) for name in _PACKAGES},
    }
    digests = {path: dvc_md5(project / path) for path in inputs}
    return {"params": params, "inputs": digests, "tags": {key: value for key, value in tags.items() if value}}


def code_digest(package: Path) -> dict[str, str]:
    """Hash the source that decides what training computes."""
    return {name: dvc_md5(package / name) for name in ("core", "training", "stages/train.py")}


def _git(project: Path, *words: str) -> str:
    answer = subprocess.run(["git", *words], cwd=project, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""
