"""tune search: Optuna tries params within tune.space, each in a training of its own, judged by validation accuracy."""

import csv
import importlib.util
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convloop import lineage
from convloop.core.history import Point, Row
from convloop.errors import ParamsError, TrainingError
from convloop.params_check import check
from convloop.params_file import flatten, with_value
from convloop.reporting.plots import plot_search
from convloop.stages.train import INPUTS
from convloop.tracking import Tracker
from convloop.tune.answer import FOLDER, give_answer, said
from convloop.tune.trials import TrialFailed, alone, finder_folder, run_trial

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.pruners import BasePruner
    from optuna.trial import FrozenTrial

    from convloop.config import Params, TuneParams
    from convloop.sender import BackgroundRun

_MOST_FAILED_COUNT = 3  # in a row: more of the same teaches nothing
_MOST_TRIES = 2
_SHOWN_COUNT = 10
# Facts kept with a trial in Optuna's journal.
_FOLDER, _AGAIN_OF, _TRIES, _SAID, _PRUNED_AT = "folder_number", "again_of", "tries", "said", "pruned_at"


def tune_search(project: Path, params: "Params", *, apply: bool) -> None:
    """Run trials until `tune.trial_count` have ended, going on where the same search was cut off.

    A trial that was killed is taken up again where it stopped. The test images are never looked at.

    Raises:
        ParamsError: Optuna is not installed.
        BusyError: the same search is running.
        TrainingError: three trials in a row failed, or all of them.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ParamsError(
            'convloop tune search needs Optuna, which is not installed. Install it: pip install "convloop[tune]"'
        )
    tree = params.model_dump(by_alias=True)
    if params.tune.epochs is not None:
        with_value(tree, "train.epochs", params.tune.epochs)
    params = check(tree)
    record = lineage.describe(project, params.flat("generate", "prepare", "train"), INPUTS)
    space = {key: values.model_dump(exclude_none=True) for key, values in params.tune.space.items()}
    fixed = {key: value for key, value in record["params"].items() if key not in space}
    code = lineage.code_digest(Path(lineage.__file__).parent)
    folder = finder_folder(project, "search", params=fixed, inputs=record["inputs"], code=code, space=space)
    with alone(folder):
        study = _open_study(folder, params)
        tracker = Tracker(project, params.tracking)
        name = f"search {' '.join(space)}"
        with tracker.tuning_run(folder, name, record["tags"] | {"convloop.tuning": "search"}) as run:
            run.log_params(fixed | {f"tune.space.{key}": json.dumps(values) for key, values in space.items()})
            run.log_inputs(record["inputs"])
            failed_count = 0
            while len(_ended(study)) < params.tune.trial_count:
                is_failed = _run_one(project, folder, params, study, tracker, run)
                failed_count = failed_count + 1 if is_failed else 0
                if failed_count == _MOST_FAILED_COUNT:
                    words = study.trials[-1].user_attrs.get(_SAID, "")
                    raise TrainingError(
                        f"{failed_count} trials in a row failed; the last one said: {words}\n"
                        f"Mend that or narrow tune.space, then type the same again. Their logs: {folder}/*/log.txt"
                    )
            best = _conclude(project, folder, study, list(space))
            run.log_tags({"tune.best": " ".join(said(best.params)), "tune.best_val_accuracy": f"{best.value:.4f}"})
            for file in ("search.png", "trials.csv"):
                run.log_file(project / FOLDER / "search" / file)
    give_answer(project, "search", best.params, apply=apply)


def _open_study(folder: Path, params: "Params") -> "Study":
    """Open the journal; what it left running was killed, and is queued again."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    study = optuna.create_study(
        storage=storage,
        study_name="search",
        direction="maximize",
        load_if_exists=True,
        pruner=_pruner(params.tune, params.train.epochs),
    )
    # A sampler of the same seed would begin its row of random numbers anew.
    study.sampler = optuna.samplers.TPESampler(seed=params.train.seed + len(study.trials))
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        _again(study, trial.number, "the search was killed")
    current = dict(flatten(params.model_dump(include={"train"})))
    if not study.trials and all(_holds(values.model_dump(), current[key]) for key, values in params.tune.space.items()):
        study.enqueue_trial({key: current[key] for key in params.tune.space})  # what is to be beaten comes first
    return study


def _pruner(settings: "TuneParams", epochs: int) -> "BasePruner":
    import optuna.pruners as known

    if settings.pruner == "median":
        return known.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 4))
    if settings.pruner == "hyperband":
        return known.HyperbandPruner(min_resource=1, max_resource=epochs)
    return known.NopPruner()


def _holds(values: dict[str, Any], value: Any) -> bool:
    if values["choices"] is not None:
        return value in values["choices"]
    return isinstance(value, int | float) and bool(values["low"] <= value <= values["high"])


def _ended(study: "Study") -> "list[FrozenTrial]":
    """List the trials that count: all but those that wait, run, or were taken up again under another number."""
    again_of = {trial.user_attrs.get(_AGAIN_OF) for trial in study.trials}
    return [trial for trial in study.trials if trial.state.is_finished() and trial.number not in again_of]


def _again(study: "Study", number: int, why: str) -> None:
    """Note a trial as failed and queue it once more, to go on from its own state."""
    from optuna.trial import TrialState

    trial = study.trials[number]
    study.tell(number, state=TrialState.FAIL)
    study.enqueue_trial(trial.params, user_attrs={**trial.user_attrs, _AGAIN_OF: number, _SAID: why})


def _run_one(
    project: Path, folder: Path, params: "Params", study: "Study", tracker: Tracker, above: "BackgroundRun"
) -> bool:
    """Run the next trial and tell Optuna; give True where it failed."""
    from optuna.trial import TrialState

    trial = study.ask()
    values = {key: _suggest(trial, key, space.model_dump()) for key, space in params.tune.space.items()}
    if _FOLDER not in trial.user_attrs:
        trial.set_user_attr(_FOLDER, 1 + max((other.user_attrs.get(_FOLDER, 0) for other in study.trials), default=0))
    number = trial.user_attrs[_FOLDER]
    place = folder / f"{number:04d}"
    place.mkdir(exist_ok=True)
    words = f"trial {number}  {' '.join(said(values))}"
    accuracies: dict[int, float] = {}

    def is_hopeless(row: Row) -> bool:
        epoch = int(row["epoch"])
        accuracies[epoch] = row["val/accuracy"]
        trial.report(row["val/accuracy"], epoch)
        return trial.should_prune()

    try:
        tree = params.model_dump(by_alias=True)
        for key, value in values.items():
            with_value(tree, key, value)
        chosen = check(tree)
        with tracker.tuning_run(place, words, {"convloop.tuning": "trial"}, above) as run:
            run.log_params(chosen.flat("train"))
            result = run_trial(project, place, chosen, run, is_hopeless=is_hopeless)
            run.log_tags({"convloop.pruned": str(result is None).lower()})
    except (TrialFailed, ParamsError) as error:
        if isinstance(error, TrialFailed) and error.was_killed and trial.user_attrs.get(_TRIES, 1) < _MOST_TRIES:
            trial.set_user_attr(_TRIES, trial.user_attrs.get(_TRIES, 1) + 1)
            _again(study, trial.number, "it was killed")
            print(f"{words}  was killed and is taken up again", flush=True)
            return False
        trial.set_user_attr(_SAID, str(error))
        study.tell(trial, state=TrialState.FAIL)
        print(f"{words}  failed: {error}", flush=True)
        return True
    except KeyboardInterrupt as stopped:
        _again(study, trial.number, "the search was stopped")
        stopped.kept = " The same command goes on."  # type: ignore[attr-defined]
        raise
    except SystemExit:
        _again(study, trial.number, "the search was stopped")
        raise
    if result is None:
        last = max(accuracies)
        trial.set_user_attr(_PRUNED_AT, last)
        study.tell(trial, state=TrialState.PRUNED)
        print(f"{words}  val accuracy {accuracies[last]:.4f}, stopped after epoch {last}", flush=True)
        return False
    study.tell(trial, result.val_accuracy)
    above.log_points([Point("val/accuracy", result.val_accuracy, number, time.time_ns() // 1_000_000)])
    print(f"{words}  val accuracy {result.val_accuracy:.4f}", flush=True)
    return False


def _suggest(trial: "Trial", key: str, values: dict[str, Any]) -> Any:
    if values["choices"] is not None:
        return trial.suggest_categorical(key, values["choices"])
    low, high, log = values["low"], values["high"], values["log"]
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log)
    return float(f"{trial.suggest_float(key, low, high, log=log):.4g}")


def _conclude(project: Path, folder: Path, study: "Study", keys: list[str]) -> "FrozenTrial":
    """Write table and plot, print the best trials, and give the winner, its numbers rounded as they were trained."""
    from optuna.trial import TrialState

    ended = _ended(study)
    complete = sorted(
        (trial for trial in ended if trial.state == TrialState.COMPLETE), key=lambda trial: -(trial.value or 0)
    )
    if not complete:
        raise TrainingError(f"No trial came through. Their logs: {folder}/*/log.txt")
    for trial in ended:
        trial.params = {
            key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in trial.params.items()
        }
    place = project / FOLDER / "search"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "trials.csv").open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["trial", "state", "val_accuracy", *keys])
        for trial in ended:
            value = "" if trial.value is None else trial.value
            writer.writerow(
                [trial.user_attrs[_FOLDER], trial.state.name.lower(), value, *(trial.params.get(key) for key in keys)]
            )
    plot_search(
        [(trial.user_attrs[_FOLDER], trial.value) for trial in ended if trial.state == TrialState.COMPLETE],
        place / "search.png",
    )
    pruned_count = sum(trial.state == TrialState.PRUNED for trial in ended)
    print(
        f"\n{len(ended)} trials: {len(complete)} complete, {pruned_count} stopped early, {len(ended) - len(complete) - pruned_count} failed"
    )
    for trial in complete[:_SHOWN_COUNT]:
        print(f"{trial.value:.4f}  trial {trial.user_attrs[_FOLDER]}  {' '.join(said(trial.params))}")
    print("The best of many is lucky as well as good; how far seeds alone move it: convloop tune repeats 5")
    return complete[0]
