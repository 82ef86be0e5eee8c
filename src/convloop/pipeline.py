"""The table of contents: five stages, what each reads and writes."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convloop.config import Params
    from convloop.tracking import Tracker


@dataclass(frozen=True)
class Stage:
    """A function from files to files, of the same name as its module, params section, DVC stage and command word."""

    name: str
    does: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def run(self, params: "Params", project: Path, tracker: "Tracker", **options: bool) -> None:
        """Import this stage alone, since imports are most of a stage's start-up, and run it."""
        function: Callable[..., None] = getattr(import_module(f"convloop.stages.{self.name}"), self.name)
        function(params, project, tracker, **options)


_DATA = ("data/raw", "data/landed/manifest.json")
_EVALUATION = tuple(
    f"reports/evaluate/{name}"
    for name in (
        "details.json",
        "predictions.npz",
        "report.html",
        "scores.json",
        "classes.csv",
        "confusion.csv",
        "confusion.png",
        "worst.png",
        "history.png",
        "samples.png",
    )
)

STAGES = {
    stage.name: stage
    for stage in (
        Stage("generate", "bring images of any source into shards", ("data/takedown.csv",), ("data/raw",)),
        Stage(
            "prepare",
            "split, check and measure the data",
            (*_DATA, "data/takedown.csv"),
            (
                "data/prepared",
                "reports/prepare/report.json",
                "reports/prepare/report.html",
                "reports/prepare/card.html",
                "reports/prepare/offenders.csv",
            ),
        ),
        Stage(
            "train",
            "train the net and package the model",
            (*_DATA, "data/prepared"),
            (
                "models/model",
                "reports/train/record.json",
                "reports/train/net.txt",
                "reports/train/history.csv",
            ),
        ),
        Stage(
            "evaluate",
            "score the packaged model",
            (*_DATA, "data/prepared", "models/model", "reports/train/history.csv"),
            _EVALUATION,
        ),
        Stage(
            "register",
            "judge it against the champion and promote it or not",
            (
                *_DATA,
                "data/prepared",
                "models/model",
                "reports/evaluate/details.json",
                "reports/evaluate/predictions.npz",
            ),
            ("reports/register/verdict.json",),
        ),
    )
}
