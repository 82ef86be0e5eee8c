"""tune batch: the smallest batch size that trains about as fast as any."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convloop.core.split import TRAIN
from convloop.errors import TrainingError
from convloop.reporting.plots import plot_batch_sizes
from convloop.training.probes import measure_speed
from convloop.tune.answer import FOLDER, give_answer
from convloop.tune.task import open_task

if TYPE_CHECKING:
    from convloop.config import Params

_SMALLEST, _LARGEST = 16, 8192
_SLOWER_SHARE = 0.05
_GIVEN_UP_SHARE = 0.2  # two sizes in a row so much slower than the best: larger ones are no faster


@dataclass(frozen=True)
class Measured:
    """One batch size of one device."""

    batch_size: int
    images_per_s: float
    memory_mb: float


def tune_batch(project: Path, params: "Params", *, apply: bool, least_s: float = 1.5) -> None:
    """Measure images/s and memory of growing batches on one device; answer with the smallest near the best rate.

    Args:
        least_s: how long each size is measured.

    Raises:
        TrainingError: not even the smallest fits into memory.
    """
    task = open_task(project)
    settings = params.train
    batches = task.batches(settings)
    most = min(_LARGEST, len(task.prepared.indices(TRAIN)))
    table: list[Measured] = []
    size = min(_SMALLEST, most)
    print("batch size  images/s  memory MB")
    while size <= most:
        speed = measure_speed(task.classifier(settings), batches.resized(size), settings, least_s)
        if speed is None:
            print(f"{size:>10}  out of memory")
            break
        table.append(Measured(size, speed.images_per_s, speed.memory_mb))
        print(f"{size:>10}  {speed.images_per_s:>8,.0f}  {speed.memory_mb:>9,.0f}", flush=True)
        if max(one.images_per_s for one in table[-2:]) < (1 - _GIVEN_UP_SHARE) * max(one.images_per_s for one in table):
            break
        size *= 2
    if not table:
        raise TrainingError(
            f"Out of memory with a batch of {size} images. Choose a smaller train.net, or smaller generate.image_px."
        )
    chosen = smallest_near_best(table)
    plot = project / FOLDER / "batch/speed.png"
    plot_batch_sizes([one.batch_size for one in table], [one.images_per_s for one in table], chosen.batch_size, plot)
    print(f"Look at it: {plot.relative_to(project)}")
    device_count = settings.devices if isinstance(settings.devices, int) else 1
    if device_count > 1:
        print(f"Measured on one device; train.batch_size is that of all {device_count}.")
    print("Another batch size asks for another learning rate: convloop tune lr")
    give_answer(project, "batch", {"train.batch_size": chosen.batch_size * device_count}, apply=apply)


def smallest_near_best(table: list[Measured]) -> Measured:
    """Choose the smallest batch within 5 % of the best rate: larger ones take fewer steps of the same worth."""
    best = max(one.images_per_s for one in table)
    return min((one for one in table if one.images_per_s >= (1 - _SLOWER_SHARE) * best), key=lambda one: one.batch_size)
