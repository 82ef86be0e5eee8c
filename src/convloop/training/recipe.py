"""What of the params decides how weights are learned, beside net, batches and rate."""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from convloop.core.augment import Augment

if TYPE_CHECKING:
    from convloop.config import TrainParams


@dataclass(frozen=True)
class Recipe:
    """Keys of `train` in params.yaml under their own names; docs/params.md says what each means."""

    optimizer: str = "adam"
    momentum: float | None = None
    weight_decay: float = 0.0
    curve: str = "constant"
    warmup_share: float = 0.0
    label_smoothing_share: float = 0.0
    augment: Augment = field(default_factory=Augment)
    test_flip: bool = False
    test_shift_px: int = 0
    compile: bool = False
    seed: int = 7


def recipe_of(settings: "TrainParams") -> Recipe:
    """Take the recipe out of the params."""
    chosen = settings.model_dump(include={one.name for one in fields(Recipe)})
    return Recipe(**chosen | {"augment": Augment(**chosen["augment"])})
