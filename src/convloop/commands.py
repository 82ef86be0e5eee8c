"""What each command does: find the project, load its params, call what does the work, say what came of it.

Each imports what it needs when it is called, so that `convloop --help` and a mistyped word load no framework.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from convloop.errors import ParamsError
from convloop.pipeline import STAGES

if TYPE_CHECKING:
    from convloop.config import Params
    from convloop.tracking import Tracker


def _load(overrides: list[str]) -> "Params":
    from convloop.params_check import load
    from convloop.params_file import FILE_NAME

    return load(_project() / FILE_NAME, tuple(overrides))


def _project() -> Path:
    """Find the project's folder: this one or the nearest above that holds params.yaml and dvc.yaml."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
            return folder
    raise ParamsError(
        f"No params.yaml and dvc.yaml in {here} or above. Go to the project's folder: cd <clone of convloop>"
    )


def _tracker(params: "Params") -> "Tracker":
    from convloop.tracking import Tracker

    return Tracker(_project(), params.tracking)


def do_stage(name: str, arguments: argparse.Namespace) -> int:
    from convloop.processes import follow_parent

    follow_parent()
    params = _load(arguments.overrides)
    if getattr(arguments, "profile", False):
        from convloop.tune.profile import profile_training

        profile_training(_project(), params)
        return 0
    if name == "train" and params.train.launcher != "lightning":
        from convloop.launch import launch

        exit_code = launch(params.train, arguments.words)
        if exit_code is not None:
            return exit_code
    options = {"fresh": True} if getattr(arguments, "fresh", False) else {}
    STAGES[name].run(params, _project(), _tracker(params), **options)
    return 0


def do_run(arguments: argparse.Namespace) -> int:
    from convloop.processes import run_convloop

    _load(arguments.overrides)
    sets = [word for override in arguments.overrides for word in ("--set", override)]
    for name in STAGES:
        print(f"== {name}", flush=True)
        exit_code = run_convloop(name, *sets)
        if exit_code:
            return exit_code
    return 0


def do_tune(name: str, arguments: argparse.Namespace) -> int:
    from importlib import import_module

    find = getattr(import_module(f"convloop.tune.{name}"), f"tune_{name}")
    find(_project(), _load(arguments.overrides), apply=arguments.apply)
    return 0


def do_tune_repeats(arguments: argparse.Namespace) -> int:
    from convloop.tune.repeats import tune_repeats

    tune_repeats(_project(), _load(arguments.overrides), arguments.count, apply=arguments.apply)
    return 0


def do_tune_trial(arguments: argparse.Namespace) -> int:
    from convloop.processes import follow_parent
    from convloop.tune.trials import train_trial

    follow_parent()
    train_trial(_project(), arguments.folder, arguments.parent_pid)
    return 0


def do_tune_apply(arguments: argparse.Namespace) -> int:
    from convloop.tune.answer import apply_patch

    apply_patch(_project(), arguments.patch)
    return 0


def do_predict(arguments: argparse.Namespace) -> int:
    from convloop.predict import predict

    params = _load([])
    answers = predict(_project(), params.registration.model_name, params.tracking.timeout_s, arguments.images)
    for line in answers.lines:
        print(line)
    for problem in answers.problems:
        print(f"convloop: {problem}", file=sys.stderr)
    return 3 if answers.problems else 0


def do_models(arguments: argparse.Namespace) -> int:
    from convloop.registry import Registry

    params = _load([])
    registry = Registry(_project(), params.registration.model_name, params.tracking.timeout_s)
    versions = registry.versions()
    if not versions:
        print(f"{registry.name} has no versions yet. Make one: make repro")
    for version in versions:
        aliases = " ".join(f"@{alias}" for alias in version.aliases)
        accuracy, verdict = version.tags.get("test_accuracy", "-"), version.tags.get("verdict", "not judged")
        print(f"version {version.number:<4} {aliases:<28} accuracy {accuracy:<7} {verdict:<9} run {version.run_id[:8]}")
    return 0


def do_show(arguments: argparse.Namespace) -> int:
    from convloop.show import show

    return show(_project(), _load([]), arguments.model)


def do_verify(arguments: argparse.Namespace) -> int:
    from convloop.verify import verify

    return verify(_project(), _load([]), arguments.model)


def do_compare(arguments: argparse.Namespace) -> int:
    from convloop.compare import compare

    return compare(_project(), _load([]), arguments.models)


def do_ingest(arguments: argparse.Namespace) -> int:
    from convloop.ingest import ingest

    ingested = ingest(_project())
    print(ingested.summary)
    if ingested.added_count:
        print("Keep them: git add data/landed && git commit. Train on them: dvc repro")
    return 0


def do_takedown(arguments: argparse.Namespace) -> int:
    from convloop.takedown import take_down

    print(take_down(_project(), arguments.names).summary)
    return 0


def do_retrain(arguments: argparse.Namespace) -> int:
    from convloop.retrain import retrain

    return retrain(_project(), _tracker(_load([])), slot=arguments.slot)


def do_schedule(arguments: argparse.Namespace) -> int:
    from convloop.schedule import schedule

    return schedule(_project(), arguments.cron)


def do_sync(arguments: argparse.Namespace) -> int:
    from convloop.publish import publish_evaluation

    project = _project()
    tracker = _tracker(_load([]))
    sent = tracker.send_left_behind()
    if (project / "models/model").is_dir():
        run = tracker.model_run()
        if (project / "reports/evaluate/details.json").is_file():
            publish_evaluation(run, project)
        sent.append(str(run.id))
    for run_id in dict.fromkeys(sent):
        print(f"Run {run_id} is complete.")
    if not sent:
        print("Nothing to send: no training has run here. Run one: dvc repro")
    return 0


def do_store_backup(arguments: argparse.Namespace) -> int:
    from convloop.stores.backup import back_up

    backup = back_up(_project(), arguments.place)
    print(
        f"{backup.file}: {backup.run_count} runs, {backup.version_count} versions, {backup.file_count} files, the ledger."
    )
    if backup.elsewhere:
        print(f"Not in it: the files of {len(backup.elsewhere)} runs, which lie on no disk of this machine.")
    return 0


def do_store_restore(arguments: argparse.Namespace) -> int:
    from convloop.stores.restore import restore

    restored = restore(_project(), arguments.file, force=arguments.force)
    print(f"Restored {restored.run_count} runs, {restored.version_count} versions, {restored.file_count} files.")
    if restored.aside:
        print(f"The store as it was: {restored.aside}")
    return 0


def do_store_upgrade(arguments: argparse.Namespace) -> int:
    from convloop.stores.upgrade import upgrade

    backup = upgrade(_project())
    if backup is None:
        print("The store is of the installed MLflow's schema already.")
    else:
        print(f"Upgraded. The way back: install the MLflow of before, then: convloop store restore {backup} --force")
    return 0


def do_store_move(arguments: argparse.Namespace) -> int:
    from convloop.stores.move import move

    moved = move(_project(), arguments.uri, arguments.artifacts)
    rows = moved.row_counts
    print(
        f"Moved {rows['runs']} runs ({rows['metrics']} metric points), {rows['model_versions']} versions, "
        f"{rows['registered_model_aliases']} aliases and {moved.file_count} files: every row and file is there, compared. "
        f"New there: {moved.added_count} rows, {moved.sent_count} files."
    )
    if moved.kept:
        print(f"Kept as the server has them: {', '.join(f'{count} of {name}' for name, count in moved.kept.items())}.")
    if moved.left:
        print(f"Left behind: {', '.join(f'{count} rows of {name}' for name, count in moved.left.items())}.")
    print(
        "Run ids are the same, so the ledger in work/ and the model here go on as they are. Use the server from now on:"
    )
    print("export MLFLOW_TRACKING_URI=http://... MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=...")
    return 0


def do_ui(arguments: argparse.Namespace) -> int:
    from convloop.ui import serve

    params = _load([])
    return serve(_project(), params.tracking, arguments.port)


def do_doctor(arguments: argparse.Namespace) -> int:
    from convloop.doctor import examine

    return examine(_project())
