"""The list of pictures that must not come back: data/takedown.csv, kept in git.

A picture is known by the SHA-256 of its pixels, as every shard holds it, and one of data/raw also by its name: with
another `generate.image_px` the same picture has other pixels.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import Batch, Images, content_hashes
from convloop.errors import DataError

FILE = "data/takedown.csv"


class Listed(NamedTuple):
    """A picture taken down: its content hash in hex, where it was (raw or landed), of which source, as what name."""

    content_sha256: str
    folder: str
    source: str
    name: str
    utc: str


def read_takedown(project: Path) -> tuple[Listed, ...]:
    """Read the list.

    Raises:
        DataError: it is missing or damaged; without it, what was taken down would come back.
    """
    file = project / FILE
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            first, *rows = csv.reader(opened, strict=True)
        if tuple(first) != Listed._fields:
            raise ValueError(f"its first line is not {','.join(Listed._fields)}")
        listed = tuple(Listed(*row) for row in rows)
        if any(len(bytes.fromhex(one.content_sha256)) != 32 for one in listed):
            raise ValueError("a hash has not 64 hex digits")
    except FileNotFoundError:
        raise DataError(f"{file} is missing. It comes with git: git checkout {FILE}") from None
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{file} is damaged: {error}. Restore it: git checkout {FILE}") from error
    return listed


def takedown_text(listed: Iterable[Listed]) -> str:
    """Write the list out."""
    text = io.StringIO(newline="")
    # All quoted, or a carriage return in a name would end its line.
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([Listed._fields, *listed])
    return text.getvalue()


def listed_contents(listed: Iterable[Listed]) -> frozenset[bytes]:
    """Give the content hashes of all listed pictures."""
    return frozenset(bytes.fromhex(one.content_sha256) for one in listed)


def holds(contents: frozenset[bytes], content_N: NDArray[np.void]) -> NDArray[np.bool_]:
    """Tell which of some content hashes are among `contents`."""
    return np.fromiter((bytes(content) in contents for content in content_N), bool, len(content_N))


class Allowed:
    """Batches of data/raw without the pictures on the list; `left_out_count` counts those met so far."""

    def __init__(self, batches: Iterable[Batch], listed: tuple[Listed, ...], source: str) -> None:
        self._batches, self._contents = batches, listed_contents(listed)
        self._names = {one.name for one in listed if one.folder == "raw" and one.source == source}
        self.left_out_count = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            if not self._contents:
                yield batch
                continue
            out_N = holds(self._contents, content_hashes(batch.images_NHWC))
            out_N |= np.fromiter((str(name) in self._names for name in batch.names_N), bool, len(out_N))
            self.left_out_count += int(out_N.sum())
            if not out_N.all():
                columns = ((field.name, getattr(batch, field.name)) for field in fields(batch))
                left: dict[str, Any] = {name: None if of is None else of[~out_N] for name, of in columns}
                yield replace(batch, **left)


def refuse_listed(images: Images, listed: tuple[Listed, ...]) -> None:
    """Let no listed picture through.

    Raises:
        DataError: a shard holds one; it is named.
    """
    found = np.flatnonzero(holds(listed_contents(listed), images.content_N)) if listed else np.array([], np.int64)
    if len(found):
        raise DataError(
            f"data/raw and data/landed hold {len(found):,} images of {FILE}, such as {images.names_N[found[0]]}. "
            f'Leave them out: dvc repro generate, or convloop takedown "{images.names_N[found[0]]}" where it has landed.'
        )
