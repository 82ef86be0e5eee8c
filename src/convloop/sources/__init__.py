"""Where images come from: one small file for each input format.

A source turns its settings into classes and batches; a new one is a file, and a line in SOURCES and in
`config.SOURCE_NAMES`.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from convloop.core.images import Batch

if TYPE_CHECKING:
    from convloop.config import GenerateParams


class Source(NamedTuple):
    """What a source yields: class names in the order of their labels, and images in batches of any length."""

    classes: tuple[str, ...]
    batches: Iterable[Batch]


ReadSource = Callable[["GenerateParams"], Source]
