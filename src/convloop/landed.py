"""The shards of new images: the list of them in git, their files in DVC."""

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convloop.core.folders import write_text
from convloop.core.images import manifest_text
from convloop.errors import PipelineError
from convloop.processes import environment

LANDED = "data/landed"
INGEST_LOCK = "work/ingest.lock"  # held by whatever changes data/landed


def track(project: Path, files: Iterable[Path], remedy: str) -> None:
    """Hash files into DVC's cache, and push them where a default remote is set.

    Args:
        remedy: what to do when DVC fails, a sentence for the message.

    Raises:
        PipelineError: DVC failed.
    """
    names = [file.relative_to(project).as_posix() for file in files]
    run_dvc(project, "add", *names, remedy=remedy)
    if remote(project):
        run_dvc(project, "push", *names, remedy=remedy)


def remote(project: Path) -> str:
    """Give the name of DVC's default remote, or nothing."""
    answer = subprocess.run(
        ["dvc", "config", "core.remote"], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def list_shards(project: Path, classes: Iterable[str], shards: list[dict[str, Any]]) -> None:
    """Replace the manifest, which is what every stage trusts, in one step."""
    write_text(project / LANDED / "manifest.json", manifest_text(tuple(classes), shards, {}))


def run_dvc(project: Path, *words: str, remedy: str) -> str:
    """Run one dvc command and give what it printed.

    Raises:
        PipelineError: it failed; its first line and the remedy are in the message.
    """
    answer = subprocess.run(
        ["dvc", *words], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    if answer.returncode:
        said = (answer.stderr.strip().splitlines() or ["no message"])[0]
        raise PipelineError(f"dvc {words[0]} failed: {said}. {remedy}")
    return answer.stdout
