"""tune repeats: the same training under several seeds, to know what a difference means."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convloop import lineage
from convloop.core.folders import write_text
from convloop.core.history import Point
from convloop.core.noise import FILE, measure_noise
from convloop.errors import ParamsError, TrainingError
from convloop.params_check import check
from convloop.params_file import with_value
from convloop.stages.train import INPUTS
from convloop.tracking import Tracker
from convloop.tune.answer import give_answer
from convloop.tune.trials import Result, TrialFailed, alone, finder_folder, run_trial

if TYPE_CHECKING:
    from convloop.config import Params

_NAMES = {"val_accuracy": "val accuracy ", "test_accuracy": "test accuracy"}


def tune_repeats(project: Path, params: "Params", count: int, *, apply: bool) -> None:
    """Train the current params under `count` seeds, from `train.seed` on, and write work/tune/repeats.json.

    The answer is a gate that promotes no gain that another seed may give as well: the floor of test accuracy.
    What is trained already is not trained again, so a larger count adds the seeds that are missing.

    Raises:
        ParamsError: fewer than two.
        BusyError: the same repeats are running.
        TrainingError: one of the trainings failed.
    """
    if count < 2:
        raise ParamsError(f"convloop tune repeats {count}: one training has no spread. Type at least 2, better 5.")
    facts = params.flat("generate", "prepare", "train")
    del facts["train.seed"]
    record = lineage.describe(project, facts, INPUTS)
    code = lineage.code_digest(Path(lineage.__file__).parent)
    folder = finder_folder(project, "repeats", params=facts, inputs=record["inputs"], code=code)
    tracker = Tracker(project, params.tracking)
    tags = {**record["tags"], "convloop.tuning": "repeats"}
    with alone(folder), tracker.tuning_run(folder, f"repeats {params.train.net.name}", tags) as run:
        run.log_params(record["params"])
        run.log_inputs(record["inputs"])
        results: dict[int, Result] = {}
        for seed in range(params.train.seed, params.train.seed + count):
            chosen = check(with_value(params.model_dump(by_alias=True), "train.seed", seed))
            place = folder / str(seed)
            place.mkdir(exist_ok=True)
            try:
                with tracker.tuning_run(place, f"seed {seed}", {"convloop.tuning": "repeat"}, run) as below:
                    below.log_params(chosen.flat("train"))
                    result = run_trial(project, place, chosen, below, scores_test=True)
                    assert result is not None
                    below.log_points(_points(result, result.epoch))
            except TrialFailed as error:
                raise TrainingError(
                    f"The training of seed {seed} failed: {error}\nIts log: {place / 'log.txt'}. The same command goes on."
                ) from None
            results[seed] = result
            run.log_points(_points(result, seed))
            print(
                f"seed {seed}  val accuracy {result.val_accuracy:.4f}  test accuracy {result.test_accuracy:.4f}",
                flush=True,
            )
        noises = {name: measure_noise([getattr(result, name) for result in results.values()]) for name in _NAMES}
        found: dict[str, Any] = {
            "params": record["params"],
            "inputs": record["inputs"],
            "seeds": {str(seed): asdict(result) for seed, result in results.items()},
            **{name: asdict(noise) for name, noise in noises.items()},
        }
        file = project / FILE
        write_text(file, json.dumps(found, indent=1) + "\n")
        run.log_file(file)
        run.log_tags(
            {
                f"tune.{name}.{key}": f"{value:.6g}"
                for name, noise in noises.items()
                for key, value in asdict(noise).items()
            }
        )
    for name, words in _NAMES.items():
        noise = noises[name]
        print(
            f"{words} {noise.mean:.4f}, 95 % interval of the mean {noise.low:.4f} to {noise.high:.4f}, standard deviation "
            f"{noise.deviation:.4f}; two trainings that differ by less than {noise.floor:.4f} may differ in their seed alone"
        )
    print(f"{file.relative_to(project)}: convloop compare reads it")
    # As printed above; few repeats far apart may give more than a share can be.
    floor = min(round(noises["test_accuracy"].floor, 4), 1.0)
    give_answer(project, "repeats", {"register.min_gain_share": floor}, apply=apply)


def _points(result: Result, step: int) -> list[Point]:
    now_ms = time.time_ns() // 1_000_000
    return [
        Point("val/accuracy", result.val_accuracy, step, now_ms),
        Point("test/accuracy", result.test_accuracy or 0.0, step, now_ms),
    ]
