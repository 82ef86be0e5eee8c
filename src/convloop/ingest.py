"""Take images out of the inbox: labelled ones into immutable shards that DVC tracks, others into the labelling queue.

A claim is deleted only when its shards are whole, hashed into DVC and listed, and its other files put away. Killed
anywhere, the next ingest goes on with the claim, and known pixels are not added twice. What cannot be used goes to
work/refused with a reason.
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convloop.claims import CLAIMS, claim_inbox, claimed_utc, read_claim, settle_claim
from convloop.core.folders import write_text
from convloop.core.images import (
    NO_SPLIT,
    SHARD_IMAGE_COUNT,
    Batch,
    Images,
    content_hashes,
    mode_codes,
    open_images,
    read_manifest,
    shard_of,
    write_shard,
)
from convloop.core.takedown_list import read_takedown
from convloop.inbox import INCOMING, Item
from convloop.landed import INGEST_LOCK, LANDED, list_shards, track
from convloop.sources import Encoded, Refused, is_text, shown
from convloop.sources.layout import SPLIT_FOLDERS
from convloop.sources.pool import Form, decoded_batches
from convloop.store import locked
from convloop.to_label import Unlabelled, enqueue

REFUSED = "work/refused"


@dataclass(frozen=True)
class Ingested:
    """What came of one ingest; `waiting` says what was left in the inbox, and why."""

    added_count: int
    known_count: int
    refused_count: int
    queued_count: int = 0
    waiting: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        parts = [f"{self.added_count:,} new images"]
        if self.known_count:
            parts.append(f"{self.known_count:,} known already")
        if self.queued_count:
            parts.append(f"{self.queued_count:,} to be labelled (data/to_label)")
        if self.refused_count:
            parts.append(f"{self.refused_count:,} refused (work/refused)")
        return "\n".join([f"Ingested {', '.join(parts)}.", *(f"Left in {INCOMING}: {what}." for what in self.waiting)])


class Fresh(NamedTuple):
    """A labelled image that is new."""

    item: Item
    pixels_HWC: NDArray[np.uint8]
    original_px: tuple[int, int]
    mode: int


@dataclass
class Rest:
    """What a claim holds beside fresh images."""

    known: Counter[str] = field(default_factory=Counter)  # by source
    unlabelled: list[Unlabelled] = field(default_factory=list)
    refused: list[tuple[Item, str]] = field(default_factory=list)


def ingest(project: Path) -> Ingested:
    """Take in all that lies in data/incoming; with nothing there, do nothing.

    Raises:
        DataError: data/raw is missing, so that classes and image size are unknown; the images stay where they are.
        PipelineError: DVC could not track the new shards; the claim stays and the next ingest goes on with it.
        OutputError: files cannot be moved from the inbox.
    """
    with locked(project / INGEST_LOCK):
        if not has_incoming(project):
            return Ingested(0, 0, 0)
        classes = tuple(
            read_manifest(project / "data/raw")["classes"]
        )  # nothing is claimed that could not be fitted in
        waiting = claim_inbox(project, classes, _landed_names(project))
        counts = [_take_in(project, claim) for claim in sorted((project / CLAIMS).glob("*"))]
    added, known, refused, queued = (sum(count) for count in zip((0, 0, 0, 0), *counts, strict=True))
    return Ingested(added, known, refused, queued, waiting)


def has_incoming(project: Path) -> bool:
    """Tell whether an ingest would find anything, here or in a claim that was cut off."""
    below = (project / INCOMING).rglob("*")
    return any((project / CLAIMS).glob("*")) or any(not path.is_dir() or path.is_symlink() for path in below)


def _landed_names(project: Path) -> set[str]:
    names: set[str] = set()
    for entry in read_manifest(project / LANDED)["shards"]:
        facts_file = shard_of(project / LANDED, entry["name"])[1]
        if facts_file.is_file():  # open_images will say what is missing
            with np.load(facts_file) as facts:
                names |= set(facts["names"].tolist())
    return names


def _take_in(project: Path, claim: Path) -> tuple[int, int, int, int]:
    images = open_images(project / "data/raw", project / LANDED)
    _remove_unlisted(project, claim.name)
    entries: list[dict[str, Any]] = []
    rest = Rest()
    for source, fresh in groupby(_fresh(project, claim, images, rest), lambda one: one.item.source):
        while part := list(islice(fresh, SHARD_IMAGE_COUNT)):
            entry = _write(project, claim, part, images.classes)
            entries.append(entry | {"source": source, "ingested_utc": claimed_utc(claim)})
    refused = Counter(item.source for item, _ in rest.refused)
    for entry in entries:
        entry |= {"known_count": rest.known[entry["source"]], "refused_count": refused[entry["source"]]}
    if entries:
        _land(project, entries, images.classes)
    queued_count = enqueue(project, rest.unlabelled, claimed_utc(claim))
    _refuse(project, claim, rest.refused)
    settle_claim(project, claim)
    known_count = rest.known.total() + len(rest.unlabelled) - queued_count
    return sum(entry["image_count"] for entry in entries), known_count, len(rest.refused), queued_count


def _fresh(project: Path, claim: Path, images: Images, rest: Rest) -> Iterator[Fresh]:
    """Decode the files of a claim, by source, and give those that are new; all others are noted in `rest`."""
    names = [images.classes[label] for label in images.labels_N]
    known = dict(zip((bytes(content) for content in images.content_N), names, strict=True))
    taken_down = {bytes.fromhex(one.content_sha256): one.utc[:10] for one in read_takedown(project)}
    for one in _decoded(project, claim, images, rest):
        item = one.item
        content = bytes(content_hashes(one.pixels_HWC[None])[0])
        if content in taken_down:
            rest.refused.append((item, f"taken down on {taken_down[content]}"))
        elif content in known and item.label in (known[content], None):
            rest.known[item.source] += 1
        elif content in known:
            rest.refused.append((item, f"the same pixels are known as {known[content]}"))
        elif item.label is None:
            others = {"split": item.split} if item.split else {}
            others |= json.loads(item.slices or "{}")
            rest.unlabelled.append(Unlabelled(claim / "files" / item.file, content, item.name, item.source, others))
        else:
            known[content] = item.label
            yield one


def _decoded(project: Path, claim: Path, images: Images, rest: Rest) -> Iterator[Fresh]:
    side_px, _, channel_count = images.shape_HWC
    form = Form(side_px, channel_count, read_manifest(project / "data/raw").get("fit", "crop"))
    items: dict[str, Item] = {}
    for item in sorted(read_claim(claim)[0], key=lambda item: (item.source, item.file)):
        reason = item.refusal or _unfit(item, images.classes)
        if reason:
            rest.refused.append((item, reason))
        elif (claim / "files" / item.file).is_file():  # else it went away before it was moved
            items[item.file] = item
    encoded = [Encoded(file, str(claim / "files" / file), 0) for file in items]

    def refuse(refused: Refused) -> None:
        rest.refused.append((items[refused.name], refused.reason))

    for batch in decoded_batches(encoded, form, refuse) if encoded else ():
        for name, pixels_HWC, (height_px, width_px), mode in zip(
            batch.names_N, batch.images_NHWC, batch.original_px_N2.tolist(), mode_codes(batch).tolist(), strict=True
        ):
            yield Fresh(items[str(name)], pixels_HWC, (height_px, width_px), mode)


def _unfit(item: Item, classes: tuple[str, ...]) -> str:
    if item.label is not None and item.label not in classes:
        return f"class {item.label} is not one of {', '.join(classes)}"
    return "" if is_text(item.name + item.file) else "its name is not UTF-8"


def _write(project: Path, claim: Path, fresh: list[Fresh], classes: tuple[str, ...]) -> dict[str, Any]:
    own_classes = _classes(project, classes)
    batch = Batch(
        np.stack([one.pixels_HWC for one in fresh]),
        np.array([own_classes.index(str(one.item.label)) for one in fresh], np.int64),
        np.array([SPLIT_FOLDERS.get(one.item.split, NO_SPLIT) for one in fresh], np.int8),
        np.array([one.original_px for one in fresh], np.int32),
        np.array([one.item.name for one in fresh]),
        np.array([one.item.slices for one in fresh]),
        modes_N=np.array([one.mode for one in fresh], np.uint8),
    )
    digest = hashlib.sha256(content_hashes(batch.images_NHWC).tobytes()).hexdigest()
    return write_shard(project / LANDED, f"{claim.name}-{digest[:8]}", batch)


def _classes(project: Path, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Give the classes by which landed labels count: that list may only grow, whatever data/raw becomes."""
    own = read_manifest(project / LANDED)["classes"]
    return (*own, *(name for name in classes if name not in own))


def _land(project: Path, entries: list[dict[str, Any]], classes: tuple[str, ...]) -> None:
    files = [file for entry in entries for file in shard_of(project / LANDED, entry["name"])]
    track(project, files, f"The images wait in {CLAIMS}; mend it, then: convloop ingest")
    list_shards(project, _classes(project, classes), [*read_manifest(project / LANDED)["shards"], *entries])


def _remove_unlisted(project: Path, claim_name: str) -> None:
    """Take away what this claim wrote before a kill and never listed: it may be cut otherwise now."""
    listed = {entry["name"] for entry in read_manifest(project / LANDED)["shards"]}
    for file in (project / LANDED).glob(f"{claim_name}-*"):
        if file.name.split(".")[0] not in listed:
            file.unlink()


def _refuse(project: Path, claim: Path, refused: list[tuple[Item, str]]) -> None:
    """Move files of no use aside; the table of reasons comes first, so that none lies there without one."""
    if not refused:
        return
    place = project / REFUSED / claim.name
    rows = [("name", "source", "reason")]
    if (place / "refused.csv").is_file():
        with (place / "refused.csv").open(encoding="utf-8", newline="") as before:
            rows = [(name, source, reason) for name, source, reason in csv.reader(before)]
    rows += [(shown(item.name), shown(item.source), reason) for item, reason in refused]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(dict.fromkeys(rows))
    write_text(place / "refused.csv", text.getvalue())
    for item, _ in refused:
        file = claim / "files" / item.file
        if item.file and file.is_file():
            (place / item.file).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                file.rename(place / item.file)
