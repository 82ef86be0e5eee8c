"""train --profile: where the time of a training step goes."""

from pathlib import Path
from typing import TYPE_CHECKING

from convloop.training.probes import trace
from convloop.tune.task import open_task

if TYPE_CHECKING:
    from convloop.config import Params

_FOLDER = Path("work") / "profile"


def profile_training(project: Path, params: "Params") -> None:
    """Record ten steps of training on one device under work/profile; no run, no state and no model come of it."""
    task = open_task(project)
    traced, table = trace(task.classifier(params.train), task.batches(params.train), params.train, project / _FOLDER)
    lines = table.read_text(encoding="utf-8").splitlines()
    print("\n".join(line[:160] for line in lines[:15]))
    print(f"{table.relative_to(project)}: the operators that took longest")
    print(f"{traced.relative_to(project)}: open it in chrome://tracing or ui.perfetto.dev")
