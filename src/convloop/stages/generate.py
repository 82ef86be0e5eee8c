"""generate: a source -> data/raw."""

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from shutil import copyfile
from typing import IO, TYPE_CHECKING, Any

from convloop.core.folders import fresh_folder
from convloop.core.images import Batch
from convloop.core.shards import write_shards
from convloop.core.takedown_list import Allowed, read_takedown
from convloop.errors import DataError
from convloop.sources import LITTER_REASON, NOTE_REASON, Refused, first_note
from convloop.sources.pool import Form, decoded_batches
from convloop.sources.remote import local_copy
from convloop.sources.table import SOURCES

if TYPE_CHECKING:
    from convloop.config import GenerateParams, Params
    from convloop.tracking import Tracker

REFUSED_FILE = "refused.csv"


def generate(params: "Params", project: Path, tracker: "Tracker") -> None:
    """Bring images of any source into the one form on disk, and list beside them what was refused.

    Raises:
        DataError: the source is missing, damaged or empty, or too many of its files are refused.
    """
    settings = params.generate
    with local_copy(settings, project / "work/fetched") as local, fresh_folder(project / "data/raw") as folder:
        source = SOURCES[settings.source](local)
        with (folder / REFUSED_FILE).open("w", encoding="utf-8", newline="") as opened:
            refusals = _Refusals(opened)
            batches = source.batches
            if source.items is not None:
                form = Form(settings.image_px, settings.channel_count, settings.fit)
                batches = decoded_batches(source.items, form, refusals.add)
            facts: dict[str, Any] = {"source": settings.source, "fit": settings.fit, **_licence(settings, local.path)}
            checked = refusals.checked(batches, settings.max_refused_share, facts, project)
            allowed = Allowed(_with_bar(checked, source.image_count), read_takedown(project), settings.source)
            count = write_shards(folder, allowed, source.classes, facts)
    print(f"data/raw holds {count:,} images of {len(source.classes)} classes from {settings.source}.")
    if allowed.left_out_count:
        print(f"Left out {allowed.left_out_count:,} images of data/takedown.csv.")
    if facts["refused_count"]:
        print(f"Refused {facts['refused_count']:,} files, listed with the reason in data/raw/{REFUSED_FILE}.")


def _licence(settings: "GenerateParams", path: str | None) -> dict[str, str]:
    """Say what is known of the source's licence: what params say, or else a note at the top of its folder."""
    folder = Path(path).expanduser() if path else None
    licence = settings.licence or (first_note(folder) if folder and folder.is_dir() else "")
    return {"licence": licence} if licence else {}


class _Refusals:
    """The list of what was refused, written down as it comes."""

    def __init__(self, opened: IO[str]) -> None:
        self._opened = opened
        self._writer = csv.writer(opened)
        self._writer.writerow(("file", "reason"))
        self._count = self._beside_count = 0
        self._first = Refused("", "")

    def add(self, refused: Refused) -> None:
        self._writer.writerow(refused)
        self._count += 1
        if refused.reason in (LITTER_REASON, NOTE_REASON):
            self._beside_count += 1
        elif not self._first.name:
            self._first = refused

    def checked(
        self, batches: Iterable[Batch], max_share: float, facts: dict[str, Any], project: Path
    ) -> Iterator[Batch]:
        """Pass batches on; at their end put the count into `facts`, or stop where too much was refused."""
        taken_count = 0
        for batch in batches:
            taken_count += len(batch.labels_N)
            yield batch
        facts["refused_count"] = self._count
        bad_count = self._count - self._beside_count
        if bad_count > max_share * (bad_count + taken_count):
            self._opened.flush()
            kept = project / "work" / REFUSED_FILE
            kept.parent.mkdir(exist_ok=True)
            copyfile(self._opened.name, kept)
            raise DataError(
                f"{bad_count:,} of {bad_count + taken_count:,} files are refused, a share of "
                f"{bad_count / (bad_count + taken_count):.3g}; generate.max_refused_share allows {max_share:g}. "
                f"The first is {self._first.name} ({self._first.reason}); work/{REFUSED_FILE} lists all. "
                "Mend or remove them, or raise that key."
            )


def _with_bar(batches: Iterable[Batch], image_count: int | None) -> Iterator[Batch]:
    """Show on a terminal how far it is."""
    if not sys.stderr.isatty():
        yield from batches
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("generate"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("generate", total=image_count)
        for batch in batches:
            yield batch
            progress.advance(bar, len(batch.labels_N))
