"""generate: a source -> data/raw."""

from pathlib import Path
from typing import TYPE_CHECKING

from convloop.core.folders import fresh_folder
from convloop.core.images import write_shards
from convloop.sources.table import SOURCES

if TYPE_CHECKING:
    from convloop.config import Params
    from convloop.tracking import Tracker


def generate(params: "Params", project: Path, tracker: "Tracker") -> None:
    """Bring images of any source into the one form on disk.

    Raises:
        DataError: the source is missing, damaged or empty.
    """
    source = SOURCES[params.generate.source](params.generate)
    with fresh_folder(project / "data/raw") as folder:
        count = write_shards(folder, source.batches, source.classes, {"source": params.generate.source})
    print(f"data/raw holds {count:,} images of {len(source.classes)} classes from {params.generate.source}.")
