"""Words of the command line -> Params -> Stage; the only file that prints errors and sets exit codes."""

import argparse
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from convloop import __version__
from convloop.core.redact import redact
from convloop.errors import ConvloopError, ParamsError
from convloop.pipeline import STAGES

if TYPE_CHECKING:
    from convloop.config import Params
    from convloop.tracking import Tracker

_EPILOG = """\
the loop:   dvc repro                       run what is out of date, stage by stage
            convloop ui                     see the runs; convloop compare A B tells them from noise
            convloop show @champion         what it is and how to get back to it
            convloop predict cat.png        ask the champion
            convloop retrain                take in new images, repro, judge
change:     edit params.yaml (docs/params.md), or dvc exp run -S train.lr=0.01
exit codes: 0 done, also when the gate refuses; 2 params or words; 3 data; 4 devices; 5 MLflow; 6 training;
            7 cannot write; 8 dvc or git; 75 busy; 130 Ctrl-C; 143 terminated
"""

_CALLED = "a version, an alias such as @champion, a run's name, or the beginning of its id"


def main(words: list[str]) -> int:
    """Run one command and give its exit code; a user's mistake prints a message, a bug of ours its traceback."""
    arguments = _parser().parse_args(words)
    if not hasattr(arguments, "command"):
        _parser().print_help()
        return 0
    signal.signal(signal.SIGTERM, _terminate)
    sys.excepthook = _print_bug
    threading.excepthook = lambda bug: _print_bug(bug.exc_type, bug.exc_value, bug.exc_traceback)
    arguments.words = words
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except ConvloopError as error:
        print(f"convloop: {redact(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stopped:
        exit_code: int = getattr(stopped, "exit_code", 130)
        kept = " The same command goes on from here." if hasattr(stopped, "exit_code") else ""
        kept = kept or getattr(stopped, "kept", "")
        print(f"convloop: stopped.{kept}", file=sys.stderr)
        return exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 141


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)


def _print_bug(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Print a traceback without the secrets in it: logs keep what is printed."""
    print(redact("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convloop",
        description="Train, judge, register and retrain a convolutional image classifier.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"convloop {__version__}")
    words = parser.add_subparsers(title="commands", metavar="COMMAND")
    for stage in STAGES.values():
        word = words.add_parser(
            stage.name,
            help=stage.does,
            description=f"Stage {stage.name}: {stage.does}.",
            epilog=f"reads:  {', '.join(stage.reads) or 'its source'}\nwrites: {', '.join(stage.writes)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_set(word)
        if stage.name == "train":
            word.add_argument("--fresh", action="store_true", help="begin again where this training was cut off before")
            word.add_argument("--profile", action="store_true", help="only trace a few steps, into work/profile")
        word.set_defaults(command=lambda arguments, name=stage.name: _run_stage(name, arguments))
    word = words.add_parser("run", help="all five stages without DVC, for debugging")
    _add_set(word)
    word.set_defaults(command=_run_all)
    _add_tune(words.add_parser("tune", help="find a learning rate, a batch size, better params, the noise of seeds"))
    word = words.add_parser("predict", help="label images with the champion")
    word.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    word.set_defaults(command=_predict)
    word = words.add_parser("models", help="versions, aliases and scores of the registered model")
    word.set_defaults(command=_models)
    word = words.add_parser("show", help="what a run or version is, and the commands that bring it back")
    word.add_argument("model", metavar="RUN|VERSION", help=_CALLED)
    word.set_defaults(command=_show)
    word = words.add_parser("verify", help="recompute a model's chain: version, run, package, dvc.lock, data, code")
    word.add_argument("model", metavar="RUN|VERSION", help=_CALLED)
    word.set_defaults(command=_verify)
    word = words.add_parser("compare", help="params that differ, and test accuracy paired image by image")
    word.add_argument("models", nargs="+", metavar="RUN|VERSION", help=_CALLED)
    word.set_defaults(command=_compare)
    word = words.add_parser("ingest", help="take new images from data/incoming into the data")
    word.set_defaults(command=_ingest)
    word = words.add_parser("takedown", help="remove images from all data for good, by source or name")
    word.add_argument("names", nargs="+", metavar="SOURCE|NAME", help="a folder of names ends in /")
    word.set_defaults(command=_takedown)
    word = words.add_parser("retrain", help="ingest, dvc repro, verdict, all under one lock and one ledger row")
    word.add_argument("--slot", help=argparse.SUPPRESS)
    word.set_defaults(command=_retrain)
    word = words.add_parser("schedule", help="retrain at the times of a cron expression (UTC), until stopped")
    word.add_argument("--cron", required=True, metavar='"M H D M W"', help='such as "0 3 * * *": every night at three')
    word.set_defaults(command=_schedule)
    word = words.add_parser("sync", help="send to MLflow what an absent server has missed")
    word.set_defaults(command=_sync)
    _add_store(words.add_parser("store", help="back up, bring back, upgrade or move the store of runs and models"))
    word = words.add_parser("ui", help="start the MLflow UI and print the link to this project's runs")
    word.add_argument("--port", type=int, default=5000)
    word.set_defaults(command=_ui)
    word = words.add_parser("doctor", help="versions, devices, store, DVC and git, each with what to do")
    word.set_defaults(command=_doctor)
    return parser


def _add_set(word: argparse.ArgumentParser) -> None:
    word.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="such as train.lr=0.01, for this run",
    )


def _add_apply(word: argparse.ArgumentParser) -> None:
    word.add_argument("--apply", action="store_true", help="write the answer into params.yaml")


def _add_tune(word: argparse.ArgumentParser) -> None:
    words = word.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, does in (
        ("lr", "the learning rate at which the loss falls fastest"),
        ("batch", "images/s and memory of growing batches; the smallest that is about as fast as any"),
        ("search", "better params within tune.space, by Optuna; stopped, the same command goes on"),
    ):
        one = words.add_parser(name, help=does)
        _add_set(one)
        _add_apply(one)
        one.set_defaults(command=lambda arguments, name=name: _tune(name, arguments))
    one = words.add_parser("repeats", help="the same training under several seeds: how far noise goes")
    _add_set(one)
    one.add_argument("count", type=int, metavar="COUNT", help="seeds, such as 5")
    _add_apply(one)
    one.set_defaults(command=_tune_repeats)
    one = words.add_parser("trial")
    one.add_argument("folder", type=Path)
    one.add_argument("parent_pid", type=int)
    one.set_defaults(command=_tune_trial)
    one = words.add_parser("apply", help="write a patch into params.yaml")
    one.add_argument("patch", type=Path, metavar="FILE", help="such as work/tune/lr/patch.yaml")
    one.set_defaults(command=_tune_apply)


def _add_store(word: argparse.ArgumentParser) -> None:
    words = word.add_subparsers(title="commands", metavar="COMMAND", required=True)
    one = words.add_parser("backup", help="write runs, files, registry and ledger into one file, also while in use")
    one.add_argument("place", nargs="?", type=Path, metavar="FILE|FOLDER", help="mlruns/backups if not given")
    one.set_defaults(command=_store_backup)
    one = words.add_parser("restore", help="bring a backup back; the store that is there is backed up first")
    one.add_argument("file", type=Path, metavar="FILE")
    one.add_argument("--force", action="store_true", help="also when the store has runs that the backup lacks")
    one.set_defaults(command=_store_restore)
    one = words.add_parser("upgrade", help="take the store to the installed MLflow, with a backup made first")
    one.set_defaults(command=_store_upgrade)
    one = words.add_parser("move", help="copy everything into the database and bucket of an MLflow server")
    one.add_argument("uri", metavar="URI", help="postgresql+psycopg://user@host/database; password in PGPASSWORD")
    one.add_argument("--artifacts", required=True, metavar="URI", help="s3://bucket/prefix; keys as AWS wants them")
    one.set_defaults(command=_store_move)


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


def _run_stage(name: str, arguments: argparse.Namespace) -> int:
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


def _run_all(arguments: argparse.Namespace) -> int:
    from convloop.processes import run_convloop

    _load(arguments.overrides)
    sets = [word for override in arguments.overrides for word in ("--set", override)]
    for name in STAGES:
        print(f"== {name}", flush=True)
        exit_code = run_convloop(name, *sets)
        if exit_code:
            return exit_code
    return 0


def _tune(name: str, arguments: argparse.Namespace) -> int:
    from importlib import import_module

    find = getattr(import_module(f"convloop.tune.{name}"), f"tune_{name}")
    find(_project(), _load(arguments.overrides), apply=arguments.apply)
    return 0


def _tune_repeats(arguments: argparse.Namespace) -> int:
    from convloop.tune.repeats import tune_repeats

    tune_repeats(_project(), _load(arguments.overrides), arguments.count, apply=arguments.apply)
    return 0


def _tune_trial(arguments: argparse.Namespace) -> int:
    from convloop.processes import follow_parent
    from convloop.tune.trials import train_trial

    follow_parent()
    train_trial(_project(), arguments.folder, arguments.parent_pid)
    return 0


def _tune_apply(arguments: argparse.Namespace) -> int:
    from convloop.tune.answer import apply_patch

    apply_patch(_project(), arguments.patch)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from convloop.predict import predict

    params = _load([])
    answers = predict(_project(), params.registration.model_name, params.tracking.timeout_s, arguments.images)
    for line in answers.lines:
        print(line)
    for problem in answers.problems:
        print(f"convloop: {problem}", file=sys.stderr)
    return 3 if answers.problems else 0


def _models(arguments: argparse.Namespace) -> int:
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


def _show(arguments: argparse.Namespace) -> int:
    from convloop.show import show

    return show(_project(), _load([]), arguments.model)


def _verify(arguments: argparse.Namespace) -> int:
    from convloop.verify import verify

    return verify(_project(), _load([]), arguments.model)


def _compare(arguments: argparse.Namespace) -> int:
    from convloop.compare import compare

    return compare(_project(), _load([]), arguments.models)


def _ingest(arguments: argparse.Namespace) -> int:
    from convloop.ingest import ingest

    ingested = ingest(_project())
    print(ingested.summary)
    if ingested.added_count:
        print("Keep them: git add data/landed && git commit. Train on them: dvc repro")
    return 0


def _takedown(arguments: argparse.Namespace) -> int:
    from convloop.takedown import take_down

    print(take_down(_project(), arguments.names).summary)
    return 0


def _retrain(arguments: argparse.Namespace) -> int:
    from convloop.retrain import retrain

    return retrain(_project(), _tracker(_load([])), slot=arguments.slot)


def _schedule(arguments: argparse.Namespace) -> int:
    from convloop.schedule import schedule

    return schedule(_project(), arguments.cron)


def _sync(arguments: argparse.Namespace) -> int:
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


def _store_backup(arguments: argparse.Namespace) -> int:
    from convloop.stores.backup import back_up

    backup = back_up(_project(), arguments.place)
    print(
        f"{backup.file}: {backup.run_count} runs, {backup.version_count} versions, {backup.file_count} files, the ledger."
    )
    if backup.elsewhere:
        print(f"Not in it: the files of {len(backup.elsewhere)} runs, which lie on no disk of this machine.")
    return 0


def _store_restore(arguments: argparse.Namespace) -> int:
    from convloop.stores.restore import restore

    restored = restore(_project(), arguments.file, force=arguments.force)
    print(f"Restored {restored.run_count} runs, {restored.version_count} versions, {restored.file_count} files.")
    if restored.aside:
        print(f"The store as it was: {restored.aside}")
    return 0


def _store_upgrade(arguments: argparse.Namespace) -> int:
    from convloop.stores.upgrade import upgrade

    backup = upgrade(_project())
    if backup is None:
        print("The store is of the installed MLflow's schema already.")
    else:
        print(f"Upgraded. The way back: install the MLflow of before, then: convloop store restore {backup} --force")
    return 0


def _store_move(arguments: argparse.Namespace) -> int:
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


def _ui(arguments: argparse.Namespace) -> int:
    from convloop.ui import serve

    params = _load([])
    return serve(_project(), params.tracking, arguments.port)


def _doctor(arguments: argparse.Namespace) -> int:
    from convloop.doctor import examine

    return examine(_project())
