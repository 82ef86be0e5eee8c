"""What DVC wrote down of a model's making: dvc.lock in the working tree, in git history or kept with a run, and the cache."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convloop.core.digest import dvc_md5
from convloop.processes import environment

FILE = "dvc.lock"
MODEL = "models/model"


@dataclass(frozen=True)
class Lock:
    """The md5s of each stage's inputs and outputs, by path; `where` tells a user which file this is."""

    where: str
    deps: dict[str, dict[str, str]]
    outs: dict[str, dict[str, str]]

    def makes(self, path: str) -> str | None:
        """Give the md5 under which a stage wrote a path."""
        return next((outs[path] for outs in self.outs.values() if path in outs), None)

    def leading_to(self, path: str) -> set[str]:
        """Give the stages that a path comes from, back to the first; later ones may still speak of an older model."""
        stages = {name for name, outs in self.outs.items() if path in outs}
        return stages.union(*(self.leading_to(dep) for name in stages for dep in self.deps.get(name, ())))


def parse_lock(text: str, where: str) -> Lock | None:
    """Read the text of a dvc.lock; None where it is none."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        stages = YAML(typ="safe", pure=True).load(text)["stages"]
        return Lock(where, *({name: _md5s(stage, key) for name, stage in stages.items()} for key in ("deps", "outs")))
    except (YAMLError, KeyError, TypeError, AttributeError):
        return None


def _md5s(stage: dict[str, list[dict[str, str]]], key: str) -> dict[str, str]:
    return {entry["path"]: entry.get("md5", "") for entry in stage.get(key, ())}


def read_lock(project: Path) -> Lock | None:
    """Read the dvc.lock of the working tree."""
    file = project / FILE
    return parse_lock(file.read_text(encoding="utf-8"), FILE) if file.is_file() else None


def find_lock(project: Path, model_md5: str) -> tuple[str, Lock] | None:
    """Find the newest commit of any branch whose dvc.lock records a model, with that dvc.lock."""
    for commit in git(project, "log", "--all", "--format=%H", "--", FILE).decode().split():
        text = git_file(project, commit, FILE)
        lock = parse_lock(text.decode(), f"dvc.lock of commit {commit[:10]}") if text is not None else None
        if lock and lock.makes(MODEL) == model_md5:
            return commit, lock
    return None


def git_file(project: Path, commit: str, path: str) -> bytes | None:
    """Read a file of the project as a commit has it."""
    found = _git(project, "show", f"{commit}:./{path}")
    return found.stdout if found.returncode == 0 else None


def git(project: Path, *words: str) -> bytes:
    """Ask git; what it refuses is empty."""
    found = _git(project, *words)
    return found.stdout if found.returncode == 0 else b""


def _git(project: Path, *words: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(["git", *words], cwd=project, capture_output=True, check=False)


def cache_folder(project: Path) -> Path:
    """Ask DVC where its cache is; that of the project where there is no DVC."""
    found = subprocess.run(
        ["dvc", "cache", "dir"], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    return Path(found.stdout.strip()) if found.returncode == 0 else project / ".dvc" / "cache"


def missing_or_damaged(cache: Path, md5: str) -> str | None:
    """Hash what DVC's cache holds under an md5, with all files of a folder; name the first object that is not whole."""
    for digest in _objects(cache, md5):
        file = _object(cache, digest)
        if not file.is_file():
            return f"{digest} is missing"
        if dvc_md5(file) != digest.removesuffix(".dir"):
            return f"{file} is damaged"
    return None


def _objects(cache: Path, md5: str) -> Iterator[str]:
    yield md5
    if md5.endswith(".dir"):  # read only after its own hash was found right
        yield from (entry["md5"] for entry in json.loads(_object(cache, md5).read_bytes()))


def _object(cache: Path, md5: str) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]
