"""Pictures for MLflow, DVC and the report; matplotlib is imported where one is drawn."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_INK, _GRID = "#1f2933", "#d9dee3"
_TRAIN, _VAL = "#2f6fb3", "#d1642a"
_MOST_NAMED_CLASSES = 30


def plot_history(rows: list[dict[str, float]], file: Path) -> None:
    """Draw loss and accuracy of training and validation over the epochs."""
    figure, (left, right) = _figure(1, 2, (9, 3.4))
    epochs = [row["epoch"] for row in rows]
    for axes, name in ((left, "loss"), (right, "accuracy")):
        axes.plot(epochs, [row[f"train/{name}"] for row in rows], color=_TRAIN, marker="o", markersize=3, label="train")
        axes.plot(epochs, [row[f"val/{name}"] for row in rows], color=_VAL, marker="o", markersize=3, label="val")
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
    _save(figure, file)


def plot_confusion(confusion_KK: NDArray[np.int64], classes: tuple[str, ...], file: Path) -> None:
    """Draw true classes against answers, each row as shares of its class."""
    count = len(classes)
    side = min(3 + 0.45 * count, 12)
    figure, axes = _figure(1, 1, (side + 1, side))
    shares_KK = confusion_KK / np.maximum(confusion_KK.sum(1, keepdims=True), 1)
    shown = axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="answer", ylabel="true class")
    axes.grid(False)
    if count <= _MOST_NAMED_CLASSES:
        axes.set_xticks(range(count), classes, rotation=45, ha="right")
        axes.set_yticks(range(count), classes)
        for row, column in np.argwhere(confusion_KK > 0):
            colour = "white" if shares_KK[row, column] > 0.5 else _INK
            axes.text(column, row, str(confusion_KK[row, column]), ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(shown, ax=axes, fraction=0.046, label="share of the true class")
    _save(figure, file)


def plot_images(images_NHWC: NDArray[np.uint8], titles: list[str], title: str, file: Path) -> None:
    """Lay images out in a grid, each under its own line of text."""
    columns = max(1, min(8, len(images_NHWC)))
    rows = max(1, -(-len(images_NHWC) // columns))
    figure, grid = _figure(rows, columns, (1.25 * columns, 1.45 * rows + 0.4))
    for axes in np.atleast_1d(grid).flat:
        axes.axis("off")
    for axes, image_HWC, text in zip(np.atleast_1d(grid).flat, images_NHWC, titles, strict=False):
        axes.imshow(image_HWC.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(text, fontsize=7, pad=2)
    figure.suptitle(title, fontsize=9)
    _save(figure, file)


def plot_lr_range(
    lrs_S: NDArray[np.float64],
    losses_S: NDArray[np.float64],
    smooth_losses_S: NDArray[np.float64],
    chosen_lr: float,
    file: Path,
) -> None:
    """Draw the loss of a range test over the learning rate, and the rate that was chosen."""
    figure, axes = _figure(1, 1, (6.5, 3.8))
    axes.plot(lrs_S, losses_S, color=_GRID, linewidth=1, label="loss of a step")
    axes.plot(lrs_S, smooth_losses_S, color=_TRAIN, label="smoothed")
    axes.axvline(chosen_lr, color=_VAL, label=f"train.lr {chosen_lr:g}")
    axes.set(
        xscale="log", xlabel="learning rate", ylabel="loss", ylim=(0, 1.5 * smooth_losses_S[: len(lrs_S) // 2].max())
    )
    axes.legend(frameon=False)
    _save(figure, file)


def plot_batch_sizes(sizes: list[int], images_per_s: list[float], chosen: int, file: Path) -> None:
    """Draw speed over batch size, and the size that was chosen."""
    figure, axes = _figure(1, 1, (6.5, 3.8))
    axes.plot(sizes, images_per_s, color=_TRAIN, marker="o")
    axes.axvline(chosen, color=_VAL, label=f"train.batch_size {chosen}")
    axes.set_xscale("log", base=2)
    axes.set(xlabel="batch size", ylabel="images/s")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _save(figure, file)


def plot_search(values: list[tuple[int, float | None]], file: Path) -> None:
    """Draw what each complete trial of a search reached, and the best so far."""
    figure, axes = _figure(1, 1, (6.5, 3.8))
    numbers, reached = [number for number, _ in values], [value or 0.0 for _, value in values]
    axes.plot(numbers, reached, color=_TRAIN, marker="o", linestyle="", label="trial")
    axes.step(numbers, np.maximum.accumulate(reached), color=_VAL, where="post", label="best so far")
    axes.set(xlabel="trial", ylabel="val accuracy")
    axes.legend(frameon=False)
    _save(figure, file)


def _figure(rows: int, columns: int, size_inches: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {"axes.grid": True, "grid.color": _GRID, "axes.axisbelow": True, "text.color": _INK, "font.size": 9}
    with rc_context(style):
        figure = Figure(figsize=size_inches, layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns)


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # No software version in the file: the same numbers give the same bytes.
    figure.savefig(file, dpi=110, bbox_inches="tight", metadata={"Software": None})
