"""Recompute the chain version -> run -> package -> dvc.lock -> data and code, link by link."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from convloop import dvc_lock
from convloop.core.card import read_card
from convloop.core.digest import dvc_md5
from convloop.dvc_lock import MODEL, Lock
from convloop.errors import DataError
from convloop.lookup import Found, Lookup
from convloop.publish import DIFF_FILE, DVC_MD5, LOCK_MD5
from convloop.registry import DIGEST

if TYPE_CHECKING:
    from mlflow.entities import Run

    from convloop.config import Params
    from convloop.registry import Version

COMMIT = "mlflow.source.git.commit"


class Link(NamedTuple):
    """One link of the chain: whether it holds, what was found, and what to do where it does not."""

    holds: bool
    found: str
    remedy: str = ""


def verify(project: Path, params: "Params", word: str) -> int:
    """Print each link of a model's chain and give 1 when one of them is broken.

    Raises:
        TrackingError: the store gives no answer, or nothing is called so.
    """
    lookup = Lookup(project, params)
    broken = 0
    with TemporaryDirectory() as temporary:
        for link in links(project, lookup, lookup.find(word), Path(temporary)):
            broken += not link.holds
            print(f"{'ok  ' if link.holds else 'FAIL'}  {link.found}", flush=True)
            if not link.holds:
                print(f"      -> {link.remedy}", flush=True)
    print(f"{broken} of the links are broken." if broken else "The chain is whole.")
    return 1 if broken else 0


def links(project: Path, lookup: Lookup, found: Found, folder: Path) -> Iterator[Link]:
    """Check link after link; `folder` takes what is fetched from the store."""
    run, version = found.run, found.version
    if version is not None:
        yield _version_link(version, run)
    if run is None:
        return
    if run.info.lifecycle_stage != "active":
        yield Link(
            False, f"run {_short(run)} is deleted", f"bring it back: mlflow runs restore --run-id {run.info.run_id}"
        )
        return
    model_md5 = run.data.tags.get(f"{DVC_MD5}{MODEL}")
    if run.data.tags.get("convloop.complete") != "true" or model_md5 is None:
        remedy = "send what it lacks: convloop sync; a training that was stopped made no model"
        yield Link(False, f"run {_short(run)} is {run.info.status} and records no model", remedy)
        return
    yield Link(True, f"run {_short(run)}: {run.info.run_name}, {run.info.status}")
    yield _package_link(project, lookup, run, version, model_md5, folder)
    kept, link = _kept_lock(lookup, run, folder)
    yield link
    inputs = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    in_tree = dvc_lock.read_lock(project)
    lock = _choose_lock(project, run, in_tree, kept, model_md5)
    yield from _lock_links(lock, inputs, model_md5)
    yield from _data_links(project, run, in_tree, inputs)
    yield from _commit_links(project, lookup, run, lock)


def _version_link(version: "Version", run: "Run | None") -> Link:
    name = f"version {version.number}"
    if run is None:
        remedy = "the run was removed for good; make it again from the files: dvc checkout, then convloop sync"
        return Link(False, f"{name} points to run {version.run_id}, which is not there", remedy)
    digest, of_run = version.tags.get(DIGEST, "none"), run.data.tags.get(DIGEST, "none")
    if digest != of_run:
        return Link(
            False,
            f"{name} is model {digest[:12]}, but its run {_short(run)} made model {of_run[:12]}",
            "do not serve it; register the model again: dvc repro --force --single-item register",
        )
    if not version.source.startswith(str(run.info.artifact_uri)):
        return Link(
            False,
            f"{name} serves {version.source}, which is not in its run {_short(run)}",
            "do not serve it; delete the version and register the model again",
        )
    return Link(True, f"{name} -> run {_short(run)}, model {digest[:12]}")


def _package_link(
    project: Path, lookup: Lookup, run: "Run", version: "Version | None", model_md5: str, folder: Path
) -> Link:
    """Hash the package: that in the registry, else that on disk, else that in DVC's cache."""
    if version is not None:
        package = lookup.package(version, folder)
        where = f"the package of version {version.number}"
        if (actual := dvc_md5(package)) != model_md5:
            remedy = "do not serve it; dvc checkout brings the model back, then delete the version and register again"
            return Link(False, f"{where} has md5 {actual}, its run made {model_md5}", remedy)
        try:
            digest = read_card(package).digest
        except DataError as error:
            return Link(False, f"{where}: {error}", "register the model again")
        if digest != run.data.tags.get(DIGEST):
            return Link(False, f"{where} says it is model {digest[:12]}", "register the model again")
        return Link(True, f"{where} has the md5 that its run recorded, {model_md5}")
    if (project / MODEL).is_dir() and dvc_md5(project / MODEL) == model_md5:
        return Link(True, f"{MODEL} on disk has the md5 that its run recorded, {model_md5}")
    return _cache_link(project, MODEL, model_md5)


def _kept_lock(lookup: Lookup, run: "Run", folder: Path) -> tuple[Lock | None, Link]:
    """Read the dvc.lock that `register` kept with the run; a model that was never registered has none."""
    digest = run.data.tags.get(LOCK_MD5)
    if digest is None:
        return None, Link(True, "the run keeps no dvc.lock: it was not registered by dvc repro")
    file = lookup.artifact(run.info.run_id, dvc_lock.FILE, folder)
    where = f"the dvc.lock kept with run {_short(run)}"
    if file is None:
        return None, Link(False, f"{where} is gone", "keep it again: dvc repro --force --single-item register")
    if dvc_md5(file) != digest:
        remedy = "keep it again: dvc repro --force --single-item register"
        return None, Link(False, f"{where} was changed: md5 {dvc_md5(file)}, recorded {digest}", remedy)
    lock = dvc_lock.parse_lock(file.read_text(encoding="utf-8"), where)
    for path, md5 in _recorded(run).items():
        if lock is None or lock.makes(path) != md5:
            return lock, Link(False, f"{where} and the run's tag {DVC_MD5}{path} differ", "register the model again")
    return lock, Link(True, f"{where} agrees with the run's tags")


def _choose_lock(project: Path, run: "Run", in_tree: Lock | None, kept: Lock | None, model_md5: str) -> Lock | None:
    """Take the dvc.lock of the working tree where that is about this model, else one from git, else the kept one."""
    if in_tree and (in_tree.makes(MODEL) == model_md5 or _is_on_disk(project, model_md5)):
        return in_tree
    committed = dvc_lock.find_lock(project, model_md5)
    return committed[1] if committed else kept


def _is_on_disk(project: Path, model_md5: str) -> bool:
    return (project / MODEL).is_dir() and dvc_md5(project / MODEL) == model_md5


def _lock_links(lock: Lock | None, inputs: dict[str, str], model_md5: str) -> Iterator[Link]:
    restore = "restore it: git checkout dvc.lock, or dvc commit where the files are right"
    if lock is None:
        yield Link(False, f"no dvc.lock here, in git or with the run records {MODEL} {model_md5}", "git fetch --all")
        return
    wrong = []
    if lock.makes(MODEL) != model_md5:
        wrong.append(f"{MODEL} is {lock.makes(MODEL)}, the run made {model_md5}")
    for stage in sorted(lock.leading_to(MODEL)):
        for path, md5 in lock.deps.get(stage, {}).items():
            made = lock.makes(path)
            if made is not None and made != md5:
                wrong.append(f"{stage} read {path} as {md5}, but it was written as {made}")
            elif stage == "train" and path in inputs and inputs[path] != md5:
                wrong.append(f"train read {path} as {md5}, the run as {inputs[path]}")
    for path in inputs.keys() - lock.deps.get("train", {}).keys():
        wrong.append(f"train did not read {path}, the run did")
    for line in wrong:
        yield Link(False, f"{lock.where}: {line}", restore)
    if not wrong:
        yield Link(True, f"{lock.where} leads from the data to {MODEL} {model_md5}")


def _data_links(project: Path, run: "Run", in_tree: Lock | None, inputs: dict[str, str]) -> Iterator[Link]:
    """Find each input under its md5: on disk, in DVC's cache, or in git."""
    commit = run.data.tags.get(COMMIT, "")
    for path, md5 in inputs.items():
        on_disk = dvc_md5(project / path) if (project / path).exists() else None
        if on_disk == md5:
            yield Link(True, f"{path} on disk has md5 {md5}")
        elif on_disk and in_tree and in_tree.deps.get("train", {}).get(path) == md5:
            remedy = f"bring it back: dvc checkout {path}, or git checkout {path}; then dvc repro"
            yield Link(False, f"{path} on disk has md5 {on_disk}, dvc.lock and the run say {md5}", remedy)
        else:
            text = dvc_lock.git_file(project, commit, path)
            if text is not None and hashlib.md5(text, usedforsecurity=False).hexdigest() == md5:
                yield Link(True, f"{path} in git commit {commit[:10]} has md5 {md5}")
            else:
                yield _cache_link(project, path, md5)


def _cache_link(project: Path, path: str, md5: str) -> Link:
    problem = dvc_lock.missing_or_damaged(dvc_lock.cache_folder(project), md5)
    if problem:
        remedy = "fetch it: dvc pull; without a remote, make it again: git checkout the commit, then dvc repro"
        return Link(False, f"{path} {md5} is neither on disk nor whole in DVC's cache: {problem}", remedy)
    return Link(True, f"{path} in DVC's cache has md5 {md5}")


def _commit_links(project: Path, lookup: Lookup, run: "Run", lock: Lock | None) -> Iterator[Link]:
    """Check that the commit is there, and that its code is what dvc.lock says was run."""
    commit = run.data.tags.get(COMMIT, "none")
    if dvc_lock.git(project, "cat-file", "-t", commit).strip() != b"commit":
        yield Link(
            False, f"commit {commit} is not in this repository", "git fetch --all, or train inside the repository"
        )
        return
    if run.data.tags.get("git.dirty") == "true":
        with TemporaryDirectory() as temporary:
            kept = lookup.artifact(run.info.run_id, DIFF_FILE, Path(temporary)) is not None
        found = f"commit {commit[:10]} and, beside it, changes that were not committed"
        yield Link(kept, f"{found} ({DIFF_FILE} of the run)" if kept else found, "commit before training")
        return
    code = {path: md5 for path, md5 in (lock.deps.get("train", {}) if lock else {}).items() if path.endswith(".py")}
    for path, md5 in code.items():
        text = dvc_lock.git_file(project, commit, path)
        if text is None or hashlib.md5(text, usedforsecurity=False).hexdigest() != md5:
            remedy = "dvc.lock or the run's commit was changed; git log dvc.lock says when"
            yield Link(False, f"{path} of commit {commit[:10]} is not what dvc.lock says was run", remedy)
            return
    yield Link(True, f"commit {commit[:10]} holds the {len(code)} code files that dvc.lock names")


def _recorded(run: "Run") -> dict[str, str]:
    return {key.removeprefix(DVC_MD5): md5 for key, md5 in run.data.tags.items() if key.startswith(DVC_MD5)}


def _short(run: "Run") -> str:
    return str(run.info.run_id)[:8]
