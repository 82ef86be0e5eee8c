"""Words of the command line -> a command; the only file that turns errors into messages and exit codes."""

import argparse
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

from convloop import __version__, commands
from convloop.core.redact import redact
from convloop.errors import ConvloopError
from convloop.pipeline import STAGES

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

# torchmetrics loads it wherever it is found.
_TORCHVISION = (
    "torchvision is installed, but is built for another torch than the one here. Install the build that belongs to it, "
    "or remove what nothing but timm needs: .venv/bin/pip uninstall torchvision timm"
)
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
        from convloop.launch import is_said_first_here, tell_torchrun

        message = redact(str(error))
        tell_torchrun(error, message)
        if is_said_first_here(message):
            print(f"convloop: {message}", file=sys.stderr)
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
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        print(f"convloop: {_TORCHVISION} ({error}).", file=sys.stderr)
        return 4


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
        word.set_defaults(command=lambda arguments, name=stage.name: commands.do_stage(name, arguments))
    word = words.add_parser("run", help="all five stages without DVC, for debugging")
    _add_set(word)
    word.set_defaults(command=commands.do_run)
    _add_tune(words.add_parser("tune", help="find a learning rate, a batch size, better params, the noise of seeds"))
    word = words.add_parser("predict", help="label images with the champion")
    word.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    word.set_defaults(command=commands.do_predict)
    word = words.add_parser("models", help="versions, aliases and scores of the registered model")
    word.set_defaults(command=commands.do_models)
    word = words.add_parser("show", help="what a run or version is, and the commands that bring it back")
    word.add_argument("model", metavar="RUN|VERSION", help=_CALLED)
    word.set_defaults(command=commands.do_show)
    word = words.add_parser("verify", help="recompute a model's chain: version, run, package, dvc.lock, data, code")
    word.add_argument("model", metavar="RUN|VERSION", help=_CALLED)
    word.set_defaults(command=commands.do_verify)
    word = words.add_parser("compare", help="params that differ, and test accuracy paired image by image")
    word.add_argument("models", nargs="+", metavar="RUN|VERSION", help=_CALLED)
    word.set_defaults(command=commands.do_compare)
    word = words.add_parser("ingest", help="take new images from data/incoming into the data")
    word.set_defaults(command=commands.do_ingest)
    word = words.add_parser("takedown", help="remove images from all data for good, by source or name")
    word.add_argument("names", nargs="+", metavar="SOURCE|NAME", help="a folder of names ends in /")
    word.set_defaults(command=commands.do_takedown)
    word = words.add_parser("retrain", help="ingest, dvc repro, verdict, all under one lock and one ledger row")
    word.add_argument("--slot", help=argparse.SUPPRESS)
    word.set_defaults(command=commands.do_retrain)
    word = words.add_parser("schedule", help="retrain at the times of a cron expression (UTC), until stopped")
    word.add_argument("--cron", required=True, metavar='"M H D M W"', help='such as "0 3 * * *": every night at three')
    word.set_defaults(command=commands.do_schedule)
    word = words.add_parser("sync", help="send to MLflow what an absent server has missed")
    word.set_defaults(command=commands.do_sync)
    _add_store(words.add_parser("store", help="back up, bring back, upgrade or move the store of runs and models"))
    word = words.add_parser("ui", help="start the MLflow UI and print the link to this project's runs")
    word.add_argument("--port", type=int, default=5000)
    word.set_defaults(command=commands.do_ui)
    word = words.add_parser("doctor", help="versions, devices, store, DVC and git, each with what to do")
    word.set_defaults(command=commands.do_doctor)
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
        one.set_defaults(command=lambda arguments, name=name: commands.do_tune(name, arguments))
    one = words.add_parser("repeats", help="the same training under several seeds: how far noise goes")
    _add_set(one)
    one.add_argument("count", type=int, metavar="COUNT", help="seeds, such as 5")
    _add_apply(one)
    one.set_defaults(command=commands.do_tune_repeats)
    one = words.add_parser("trial")
    one.add_argument("folder", type=Path)
    one.add_argument("parent_pid", type=int)
    one.set_defaults(command=commands.do_tune_trial)
    one = words.add_parser("apply", help="write a patch into params.yaml")
    one.add_argument("patch", type=Path, metavar="FILE", help="such as work/tune/lr/patch.yaml")
    one.set_defaults(command=commands.do_tune_apply)


def _add_store(word: argparse.ArgumentParser) -> None:
    words = word.add_subparsers(title="commands", metavar="COMMAND", required=True)
    one = words.add_parser("backup", help="write runs, files, registry and ledger into one file, also while in use")
    one.add_argument("place", nargs="?", type=Path, metavar="FILE|FOLDER", help="mlruns/backups if not given")
    one.set_defaults(command=commands.do_store_backup)
    one = words.add_parser("restore", help="bring a backup back; the store that is there is backed up first")
    one.add_argument("file", type=Path, metavar="FILE")
    one.add_argument("--force", action="store_true", help="also when the store has runs that the backup lacks")
    one.set_defaults(command=commands.do_store_restore)
    one = words.add_parser("upgrade", help="take the store to the installed MLflow, with a backup made first")
    one.set_defaults(command=commands.do_store_upgrade)
    one = words.add_parser("move", help="copy everything into the database and bucket of an MLflow server")
    one.add_argument("uri", metavar="URI", help="postgresql+psycopg://user@host/database; password in PGPASSWORD")
    one.add_argument("--artifacts", required=True, metavar="URI", help="s3://bucket/prefix; keys as AWS wants them")
    one.set_defaults(command=commands.do_store_move)
