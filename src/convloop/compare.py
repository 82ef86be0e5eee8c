"""Compare runs: the params that differ, and the difference of test accuracy with its interval."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convloop.core.gate import compare as compare_pairs
from convloop.core.noise import FILE
from convloop.errors import TrackingError
from convloop.lookup import Lookup
from convloop.publish import TEST_SHA256

if TYPE_CHECKING:
    from mlflow.entities import Run

    from convloop.config import Params

_PREDICTIONS = "evaluate/predictions.npz"
# They say on what it ran, not what was trained.
_NOT_THE_MODEL = ("train.accelerator", "train.devices", "train.strategy")


def compare(project: Path, params: "Params", words: list[str]) -> int:
    """Print a column for each run, the first being what the others are compared with.

    Raises:
        TrackingError: a run is not found, or was not evaluated by this version.
    """
    lookup = Lookup(project, params)
    runs = [_run(lookup, word) for word in words]
    right = [_right(lookup, run) for run in runs]
    table = [["run", *(run.info.run_id[:8] for run in runs)], ["called", *words]]
    table += differing(runs)
    table.append(["test images", *(f"{len(rights):,}" for _, rights in right)])
    table.append(["test accuracy", *(f"{rights.mean():.4f}" for _, rights in right)])
    print(_as_text(table))
    for word, run, (content_N, right_N) in zip(words[1:], runs[1:], right[1:], strict=True):
        print(f"\n{word} against {words[0]}: {_difference(runs[0], *right[0], run, content_N, right_N)}")
    if len(runs) > 1 and (project / FILE).is_file():
        print(f"\n{_noise(project / FILE, runs)}")
    return 0


def differing(runs: "list[Run]") -> list[list[str]]:
    """Give a row for each param of which the runs have different values."""
    keys = sorted({key for run in runs for key in run.data.params if key not in _NOT_THE_MODEL})
    rows = [[key, *(run.data.params.get(key, "-") for run in runs)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def _run(lookup: Lookup, word: str) -> "Run":
    run = lookup.find(word).run
    if run is None:
        raise TrackingError(f"{word} has lost its run. See what is broken: convloop verify {word}")
    return run


def _right(lookup: Lookup, run: "Run") -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """Fetch which test images a model answers rightly, in the order of their content."""
    with TemporaryDirectory() as temporary:
        file = lookup.artifact(run.info.run_id, _PREDICTIONS, Path(temporary))
        if file is None:
            raise TrackingError(
                f"Run {run.info.run_id[:8]} ({run.info.run_name}) keeps no predictions, so nothing can be paired. "
                "Bring its model back (convloop show) and evaluate it: dvc repro --force --single-item evaluate"
            )
        with file.open("rb") as opened, np.load(opened) as archive:
            content_N = archive["content_N"]
            right_N = archive["probabilities_NK"].argmax(1) == archive["labels_N"]
    order_N = np.argsort(content_N, kind="stable")
    return content_N[order_N], right_N[order_N]


def _difference(
    first: "Run",
    first_content_N: NDArray[np.void],
    first_right_N: NDArray[np.bool_],
    run: "Run",
    content_N: NDArray[np.void],
    right_N: NDArray[np.bool_],
) -> str:
    if not np.array_equal(first_content_N, content_N):
        shas = [one.data.tags.get(TEST_SHA256, "unknown")[:12] for one in (first, run)]
        return (
            f"cannot be compared: the test sets differ ({shas[0]} of {len(first_content_N):,} images, "
            f"{shas[1]} of {len(content_N):,}). Set prepare.test_sha256 to keep one test set, and evaluate both on it."
        )
    found = compare_pairs(right_N, first_right_N)
    numbers = f"{found.gain_share:+.4f}, 95 % interval {found.low_share:+.4f} to {found.high_share:+.4f}"
    if found.low_share <= 0 <= found.high_share:
        return f"{numbers} on the same {found.image_count:,} images: no difference shown."
    return f"{numbers} on the same {found.image_count:,} images: {'better' if found.gain_share > 0 else 'worse'}."


def _noise(file: Path, runs: "list[Run]") -> str:
    """Say how far seeds alone move the test accuracy, and whether that was measured on params of these runs."""
    found = json.loads(file.read_text(encoding="utf-8"))
    noise = found["test_accuracy"]
    measured = {key: str(value) for key, value in found["params"].items() if key not in _NOT_THE_MODEL}
    is_about_these = any(measured.items() <= run.data.params.items() for run in runs)
    about = "these params" if is_about_these else "other params than these; measure anew: convloop tune repeats 5"
    return (
        f"Noise of seeds: two trainings whose test accuracy differs by less than {noise['floor']:.4f} may differ in their "
        f"seed alone ({noise['count']} seeds, {noise['mean']:.4f} on the mean, of {about})."
    )


def _as_text(table: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)
