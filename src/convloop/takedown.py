"""Take pictures down: by source or by name, out of all shards, for good.

What is taken down is listed in data/takedown.csv first, so that `generate` and `ingest` let none of it in again, and a
command that was killed goes on when typed again. Landed shards that hold some are rewritten under new names; their old
files are deleted, and so is what DVC's cache and its remotes keep of any shard that holds some.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convloop.core.digest import dvc_md5, file_sha256
from convloop.core.folders import write_text
from convloop.core.images import open_images, read_manifest, shard_of
from convloop.core.takedown_list import FILE, Listed, holds, listed_contents, read_takedown, takedown_text
from convloop.errors import DataError, PipelineError
from convloop.landed import INGEST_LOCK, LANDED, list_shards, run_dvc, track
from convloop.objects import Deleted, delete_objects
from convloop.store import locked
from convloop.to_label import TO_LABEL, read_queue, write_queue

_REMEDY = "Mend it, then type the same command again: it goes on"


@dataclass(frozen=True)
class TakenDown:
    """What a takedown did; `remotes` are those of DVC that hold none of the pictures any more."""

    raw_count: int
    landed_count: int
    queued_count: int
    object_count: int
    remotes: tuple[str, ...]

    @property
    def summary(self) -> str:
        lines = [
            f"Took down {self.raw_count:,} images of data/raw, {self.landed_count:,} of {LANDED}, "
            f"{self.queued_count:,} of {TO_LABEL}; {FILE} lists them.",
            f"Keep it so:  git add {FILE} {LANDED} && git commit",
            "Rebuild:     dvc repro (data/raw holds them until then, and so does what the champion has learned)",
            f"Old copies:  deleted {self.object_count:,} objects of DVC, "
            f"from {' and '.join(['its cache', *(f'remote {name}' for name in self.remotes)])};",
            "             work/, reports/ and the pictures of older runs in MLflow are yours to look through",
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Shard:
    folder: str  # raw or landed
    source: str
    content_N: NDArray[np.void]
    names_N: NDArray[np.str_]

    def is_called_N(self, word: str) -> NDArray[np.bool_]:
        source = self.source if self.folder == "landed" else None  # that of data/raw is all of it
        called = (_is_called(str(name), source, word, self.folder) for name in self.names_N)
        return np.fromiter(called, bool, len(self.names_N))


def take_down(project: Path, words: list[str]) -> TakenDown:
    """Take down all pictures that are called so; twins of equal pixels go with them, whatever their name.

    Args:
        words: a source of data/landed, the name of an image, or a folder of names that ends in /. `data/raw/` or
            `data/landed/` before a name means the image there alone.

    Raises:
        DataError: nothing is called so, or a shard is missing or damaged.
        PipelineError: DVC failed, or a remote cannot be reached; typed again, the command goes on.
    """
    with locked(project / INGEST_LOCK):
        if read_manifest(project / LANDED)["shards"]:
            open_images(project / LANDED)  # nothing is rewritten that is not whole
        before = read_takedown(project)
        shards = [*_shards(project / "data/raw"), *_shards(project / LANDED)]
        chosen = set(listed_contents(before))
        for word in words:
            found = {bytes(content) for shard in shards for content in shard.content_N[shard.is_called_N(word)]}
            if not found and not _is_known(project, word, before):
                raise DataError(_nothing(word, shards))
            chosen |= found
        contents = frozenset(chosen)
        utc = datetime.now(UTC).isoformat(timespec="seconds")
        already = {(one.content_sha256, one.folder, one.name) for one in before}
        new = [
            one
            for shard in shards
            for one in _listed(shard, contents, utc)
            if (one.content_sha256, one.folder, one.name) not in already
        ]
        write_text(project / FILE, takedown_text([*before, *new]))
        _rewrite(project, contents)
        queued_count = _empty_queue(project, words, contents)
        deleted = _delete_unlisted(project, contents)
    raw_count = sum(one.folder == "raw" for one in new)
    return TakenDown(raw_count, len(new) - raw_count, queued_count, deleted.object_count, deleted.remotes)


def _shards(folder: Path) -> Iterator[_Shard]:
    if folder.name == "raw" and not (folder / "manifest.json").is_file():
        return
    manifest = read_manifest(folder)
    for entry in manifest["shards"]:
        facts_file = shard_of(folder, entry["name"])[1]
        if not facts_file.is_file():
            raise DataError(f"{facts_file} is missing, but the manifest lists it. Fetch it: dvc checkout")
        with np.load(facts_file) as facts:
            source = entry.get("source", "") if folder.name == "landed" else manifest.get("source", "")
            yield _Shard(folder.name, source, facts["content"], facts["names"])


def _is_called(name: str, source: str | None, word: str, folder: str) -> bool:
    place = f"data/{folder}/{name}"
    if word.endswith("/"):
        return name.startswith(word) or (place.startswith(word) and word.count("/") > 2)
    return word in (name, place, source)


def _is_known(project: Path, word: str, before: tuple[Listed, ...]) -> bool:
    """Tell whether a word is called for by what was taken down before a kill, or by an image without a label."""
    if any(_is_called(one.name, one.source if one.folder == "landed" else None, word, one.folder) for one in before):
        return True
    return any(_is_called(row["came_as"], row["came_from"], word, "to_label") for row in read_queue(project).values())


def _nothing(word: str, shards: list[_Shard]) -> str:
    sources = sorted({shard.source for shard in shards if shard.folder == "landed"})
    example = next((str(name) for shard in shards for name in shard.names_N[:1]), "none")
    return (
        f'No image and no source is called "{word}". Sources of {LANDED}: {", ".join(sources) or "none"}. '
        f"Names are such as {example}; a folder of names ends in /."
    )


def _listed(shard: _Shard, contents: frozenset[bytes], utc: str) -> Iterator[Listed]:
    for place in np.flatnonzero(holds(contents, shard.content_N)):
        content = bytes(shard.content_N[place]).hex()
        yield Listed(content, shard.folder, shard.source, str(shard.names_N[place]), utc)


def _rewrite(project: Path, contents: frozenset[bytes]) -> None:
    """Put shards without the taken-down images in the place of those that hold some; a shard left empty goes."""
    folder = project / LANDED
    manifest = read_manifest(folder)
    entries: list[dict[str, Any]] = []
    files: list[Path] = []
    for entry in manifest["shards"]:
        images_file, facts_file = shard_of(folder, entry["name"])
        with np.load(facts_file) as archive:
            facts = {name: archive[name] for name in archive.files}
        kept_N = ~holds(contents, facts["content"])
        if kept_N.all():
            entries.append(entry)
        elif kept_N.any():
            facts = {name: column[kept_N] for name, column in facts.items()}
            came = entry["name"].rpartition("-")[0]
            name = f"{came}-{hashlib.sha256(facts['content'].tobytes()).hexdigest()[:8]}"
            new_images_file, new_facts_file = shard_of(folder, name)
            np.save(new_images_file, np.load(images_file, mmap_mode="r")[kept_N])
            np.savez(new_facts_file, **facts)
            files += [new_images_file, new_facts_file]
            entries.append(
                entry
                | {
                    "name": name,
                    "image_count": int(kept_N.sum()),
                    "images_sha256": file_sha256(new_images_file),
                    "facts_sha256": file_sha256(new_facts_file),
                    "taken_down_count": entry.get("taken_down_count", 0) + int((~kept_N).sum()),
                }
            )
    if files:
        track(project, files, _REMEDY)
    if entries != manifest["shards"]:
        list_shards(project, manifest["classes"], entries)


def _delete_unlisted(project: Path, contents: frozenset[bytes]) -> Deleted:
    """Delete all shards that hold taken-down images and are listed no more, and what DVC keeps of them.

    Facts and pointers go last: while they are there, a command typed again finds what is left of a shard.

    Raises:
        PipelineError: a place where DVC keeps objects could not be cleared.
    """
    folder = project / LANDED
    listed = {entry["name"] for entry in read_manifest(folder)["shards"]}
    facts_files, pointers, md5s = [], [], set()
    for facts_file in sorted(folder.glob("*.facts.npz")):
        name = facts_file.name.removesuffix(".facts.npz")
        with np.load(facts_file) as facts:
            is_held = name not in listed and holds(contents, facts["content"]).any()
        if not is_held:
            continue
        files = shard_of(folder, name)
        own_pointers = [pointer for pointer in _pointers(*files) if pointer.is_file()]
        md5s |= {dvc_md5(file) for file in files if file.is_file()}
        md5s |= {md5 for pointer in own_pointers for md5 in re.findall(r"md5: ([0-9a-f]{32})\b", pointer.read_text())}
        files[0].unlink(missing_ok=True)
        facts_files.append(facts_file)
        pointers += own_pointers
    deleted = delete_objects(project, sorted(md5s), contents)
    if deleted.unreached:
        raise PipelineError(
            f"The pictures are out of {LANDED} and listed in {FILE}, but copies of them may be left on "
            f"{'; on '.join(deleted.unreached)}. {_REMEDY}."
        )
    if pointers:
        names = [pointer.relative_to(project).as_posix() for pointer in pointers]
        run_dvc(project, "remove", *names, remedy=_REMEDY)
    for facts_file in facts_files:
        facts_file.unlink()
    return deleted


def _pointers(*files: Path) -> list[Path]:
    return [file.with_name(f"{file.name}.dvc") for file in files]


def _empty_queue(project: Path, words: list[str], contents: frozenset[bytes]) -> int:
    """Take images out of the labelling queue as well, where they are called so or show the same."""
    rows = read_queue(project)
    starts = {content.hex()[:16] for content in contents}
    gone = [
        path
        for path, row in rows.items()
        if path.partition(".")[0] in starts
        or any(_is_called(row["came_as"], row["came_from"], word, "to_label") for word in words)
    ]
    for path in gone:
        (project / TO_LABEL / path).unlink(missing_ok=True)
        del rows[path]
    if gone:
        write_queue(project, rows)
    return len(gone)
