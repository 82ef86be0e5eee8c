"""What a packaged model says of itself; readable without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from convloop.errors import DataError

CARD_FILE = Path("extra_files") / "card.json"  # where MLflow keeps what travels with a model

Fit = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True)
class ModelCard:
    """What a user of the package must know.

    `digest` is the sha256 of weights and card, `fit` how images became square; with `test_flip` and `test_shift_px` the
    package answers with the mean over several views of each image (`package.logits_of`).
    """

    classes: tuple[str, ...]
    image_px: int
    channel_count: int
    net: str
    epoch: int
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]
    digest: str = ""
    fit: Fit = "crop"
    test_flip: bool = False
    test_shift_px: int = 0


def read_facts(file: Path, stage: str) -> dict[str, Any]:
    """Read a JSON object that a stage wrote.

    Raises:
        DataError: it is missing or damaged; the stage to repeat is named.
    """
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file} is missing. Make it: dvc repro --force {stage}") from None
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}). Make it again: dvc repro --force {stage}") from error
    if not isinstance(facts, dict):
        raise DataError(f"{file} is damaged (no JSON object). Make it again: dvc repro --force {stage}")
    return facts


def read_card(package: Path) -> ModelCard:
    """Read the card inside a package.

    Raises:
        DataError: there is no package, or its card is damaged.
    """
    file = package / CARD_FILE
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()
        }
        return ModelCard(**plain)
    except FileNotFoundError:
        raise DataError(f"{file} is missing: there is no packaged model. Make it: dvc repro train") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is damaged ({error}). Make it again: dvc repro --force train") from error
