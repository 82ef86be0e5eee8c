"""Where a model comes from: commit, inputs, versions, machine."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from convloop.core.digest import dvc_md5
from convloop.core.redact import redact, redact_values

_PACKAGES = ("torch", "lightning", "torchmetrics", "mlflow", "dvc", "numpy")
# What a pipeline writes while it runs does not make the code of a model uncertain.
_NOT_CODE = (":!dvc.lock", ":!reports")
_MOST_DIFF_CHARS = 200_000
_LONGEST_NAME = 100


def describe(project: Path, params: dict[str, Any], inputs: tuple[str, ...]) -> dict[str, Any]:
    """Collect what made a model, at the start of its training, so that later changes cannot blur it.

    Secrets that `core.redact` knows are taken out.

    Returns:
        `params` (flat), `inputs` (path -> the md5 that DVC gives it), `tags` (commit, versions, machine), `diff` (what
        was not committed).
    """
    commit = _git(project, "rev-parse", "HEAD")
    dirty = bool(_git(project, "status", "--porcelain", "--untracked-files=no", "--", ".", *_NOT_CODE))
    tags = {
        "mlflow.source.git.commit": commit or "none",
        "mlflow.source.git.branch": _git(project, "rev-parse", "--abbrev-ref", "HEAD"),
        "mlflow.source.git.repoURL": _git(project, "remote", "get-url", "origin"),
        "git.dirty": str(dirty).lower(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": _device(),
        "strategy": str(params.get("train.strategy", "")),
        **{f"version.{name}": version(name) for name in _PACKAGES},
    }
    digests = {path: dvc_md5(project / path) for path in inputs}
    return {
        "params": redact_values(params),
        "inputs": digests,
        "tags": redact_values({key: value for key, value in tags.items() if value}),
        "diff": _diff(project) if dirty else "",
    }


def code_digest(package: Path) -> dict[str, str]:
    """Hash the source that decides what training computes."""
    return {name: dvc_md5(package / name) for name in ("core", "training", "stages/train.py")}


def run_name(params: dict[str, Any], defaults: dict[str, Any]) -> str:
    """Name a run by its source, its net, and what differs from the defaults.

    Args:
        params: flat, of generate, prepare and train; `defaults` likewise.
    """
    source = params["generate.source"]
    words = [params["train.net.name"]] if source == defaults["generate.source"] else [source, params["train.net.name"]]
    said = ("generate.source", "generate.path", "train.net.name")
    words += [
        f"{key.rpartition('.')[2]}={value:g}" if isinstance(value, float) else f"{key.rpartition('.')[2]}={value}"
        for key, value in sorted(params.items(), key=lambda item: not item[0].startswith("train."))
        if key not in said and value != defaults.get(key)
    ]
    name = redact(" ".join(words))
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _diff(project: Path) -> str:
    """Give what was not committed, in the form that `git apply` takes unless it was cut or redacted."""
    asked = ("git", "diff", "HEAD", "--no-color", "--no-ext-diff", "--", ".", *_NOT_CODE)
    answer = subprocess.run(asked, cwd=project, capture_output=True, check=False)
    text = redact(answer.stdout.decode("utf-8", "replace"))
    if len(text) > _MOST_DIFF_CHARS:
        return f"{text[:_MOST_DIFF_CHARS]}\n[cut here: {len(text):,} characters in all]\n"
    return text


def _device() -> str:
    """Name the GPUs, or the processor."""
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(errors="replace").splitlines() if facts.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{named or platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _git(project: Path, *words: str) -> str:
    answer = subprocess.run(["git", *words], cwd=project, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""
