"""Say what a run or version is, and the commands that bring it back."""

import time
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from convloop import dvc_lock, store
from convloop.dvc_lock import MODEL
from convloop.errors import TrackingError
from convloop.lookup import Lookup
from convloop.publish import DIFF_FILE, DVC_MD5, LOCK_MD5
from convloop.registry import DIGEST
from convloop.verify import COMMIT

if TYPE_CHECKING:
    from mlflow.entities import Run

    from convloop.config import Params
    from convloop.registry import Version


def show(project: Path, params: "Params", word: str) -> int:
    """Print facts and way back.

    Raises:
        TrackingError: the store gives no answer, nothing is called so, or the version has lost its run.
    """
    lookup = Lookup(project, params)
    found = lookup.find(word)
    if found.run is None:
        raise TrackingError(f"{word} has lost its run. See what else is broken: convloop verify {quote(word)}")
    for label, value in _facts(found.run, found.version):
        print(f"{label:<10} {value}")
    with TemporaryDirectory() as temporary:
        has_diff = lookup.artifact(found.run.info.run_id, DIFF_FILE, Path(temporary)) is not None
    print("\nBack to it:")
    for line in way_back(project, found.run, has_diff=has_diff):
        print(f"  {line}")
    print(f"\nIs it still whole? convloop verify {found.run.info.run_id[:8]}")
    return 0


def way_back(project: Path, run: "Run", *, has_diff: bool) -> list[str]:
    """Give the commands that bring model, data and code of a run back into the working tree."""
    tags = run.data.tags
    model_md5 = tags.get(f"{DVC_MD5}{MODEL}")
    if model_md5 is None:
        return ["# it made no model: nothing to go back to"]
    in_tree = dvc_lock.read_lock(project)
    if in_tree and in_tree.makes(MODEL) == model_md5:
        return ["dvc checkout                 # dvc.lock here is about this model already"]
    committed = dvc_lock.find_lock(project, model_md5)
    if committed:
        return [f"git checkout {committed[0]}", "dvc checkout                 # or, from a remote: dvc pull"]
    lines = []
    if (commit := tags.get(COMMIT, "none")) != "none":
        lines.append(f"git checkout {commit}")
    fetch = f"MLFLOW_TRACKING_URI={quote(store.shown_uri(project))} mlflow artifacts download -r {run.info.run_id} -d ."
    if has_diff:
        lines.append(f"{fetch} -a {DIFF_FILE} && git apply {DIFF_FILE}")
    if tags.get(LOCK_MD5):
        return [*lines, f"{fetch} -a {dvc_lock.FILE}", "dvc checkout                 # or, from a remote: dvc pull"]
    if experiment := tags.get("dvc.experiment"):
        return [f"dvc exp apply {quote(experiment)}    # an experiment keeps its own dvc.lock"]
    return [*lines, "dvc repro                    # its dvc.lock was never committed: train it again"]


def _facts(run: "Run", version: "Version | None") -> list[tuple[str, str]]:
    tags, metrics = run.data.tags, run.data.metrics
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.info.start_time / 1000))
    facts = [("run", f"{run.info.run_name}  {run.info.run_id}  {run.info.status}, {started}")]
    if version:
        aliases = "".join(f" @{alias}" for alias in version.aliases)
        facts.append(("version", f"{version.number}{aliases}, {version.tags.get('verdict', 'not judged')}"))
    facts += [
        ("model", tags.get(DIGEST, "none")),
        ("scores", ", ".join(f"{name} {metrics[name]:.4f}" for name in sorted(metrics) if name.startswith("test/"))),
        ("commit", tags.get(COMMIT, "none") + (" and uncommitted changes" if tags.get("git.dirty") == "true" else "")),
        ("from", tags.get("mlflow.source.git.repoURL", "")),
        ("experiment", tags.get("dvc.experiment", "")),
        (
            "on",
            f"{tags.get('device', 'unknown')}; strategy {tags.get('strategy')}, {tags.get('world_size', '?')} processes",
        ),
        ("with", ", ".join(f"{key[8:]} {tags[key]}" for key in sorted(tags) if key.startswith("version."))),
    ]
    facts += [("read", f"{entry.dataset.digest}  {entry.dataset.name}") for entry in run.inputs.dataset_inputs]
    return [(label, value) for label, value in facts if value]
