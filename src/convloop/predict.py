"""Ask the champion what pictures show."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from convloop.core.decode import decode
from convloop.core.package import Package
from convloop.registry import Registry

_SHOWN_COUNT = 3


class Answers(NamedTuple):
    """A line for each picture that could be read, a problem for each that could not."""

    lines: list[str]
    problems: list[str]


def predict(project: Path, model_name: str, timeout_s: int, files: list[Path]) -> Answers:
    """Label image files with the champion: the answer and the most likely classes.

    Raises:
        TrackingError: there is no champion, or the registry gives no answer.
    """
    with TemporaryDirectory() as temporary:
        version, folder = Registry(project, model_name, timeout_s).champion_package(Path(temporary))
        package = Package(folder)
    answers = Answers([f"{model_name} version {version} (champion)"], [])
    for file in files:
        try:
            card = package.card
            pixels, _ = decode(file, image_px=card.image_px, channel_count=card.channel_count, fit=card.fit)
        except ValueError as error:
            answers.problems.append(f"{file}: {error}. Give an image file that opens.")
            continue
        (probabilities_K,) = package.probabilities(pixels[None], batch_size=1)
        best_K = np.argsort(-probabilities_K)[:_SHOWN_COUNT]
        shares = "  ".join(f"{package.card.classes[label]} {probabilities_K[label]:.1%}" for label in best_K)
        answers.lines.append(f"{file}: {package.card.classes[best_K[0]]}   ({shares})")
    return answers
