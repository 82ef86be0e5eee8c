"""Take labelled images out of the inbox into an immutable shard that DVC tracks.

Images dropped into data/incoming/<class>/ are claimed by a rename, so that what arrives later waits for the next time;
the claim is deleted only when the shard is whole, hashed into DVC and listed. Killed anywhere, the next ingest takes
the claim up again, and known pixels are not added twice. A picture that cannot be used goes to work/refused.
"""

import hashlib
import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convloop.core.decode import decode
from convloop.core.folders import write_text
from convloop.core.images import (
    NO_SPLIT,
    Batch,
    Images,
    content_hashes,
    manifest_text,
    open_images,
    read_manifest,
    shard_of,
    write_shard,
)
from convloop.errors import PipelineError
from convloop.processes import environment
from convloop.store import locked

INCOMING, LANDED, CLAIMS, REFUSED = "data/incoming", "data/landed", "work/claims", "work/refused"
_SETTLE_S = 2.0  # a file untouched for so long is taken to be whole


class Decoded(NamedTuple):
    """A claimed file and what it shows."""

    file: Path
    pixels: NDArray[np.uint8]
    original_px: tuple[int, int]


@dataclass(frozen=True)
class Ingested:
    """What came of one ingest."""

    added_count: int
    known_count: int
    refused_count: int

    @property
    def summary(self) -> str:
        parts = [f"{self.added_count:,} new images"]
        if self.known_count:
            parts.append(f"{self.known_count:,} known already")
        if self.refused_count:
            parts.append(f"{self.refused_count:,} refused (work/refused)")
        return f"Ingested {', '.join(parts)}."


def ingest(project: Path) -> Ingested:
    """Take in all that lies in data/incoming/<class>/; with nothing there, do nothing.

    Raises:
        DataError: data/raw is missing, so that classes and image size are unknown; the images stay where they are.
        PipelineError: DVC could not track the new shard; the claim stays and the next ingest goes on with it.
    """
    with locked(project / "work/ingest.lock"):
        if not has_incoming(project):
            return Ingested(0, 0, 0)
        read_manifest(project / "data/raw")  # nothing is claimed that could not be fitted in
        _claim(project)
        claims = sorted((project / CLAIMS).glob("*"))
        results = [_take_in(project, claim) for claim in claims]
    return Ingested(*(sum(counts) for counts in zip(*results, strict=True))) if results else Ingested(0, 0, 0)


def has_incoming(project: Path) -> bool:
    """Tell whether an ingest would find anything, here or in a claim that was cut off."""
    return any((project / CLAIMS).glob("*")) or any(_incoming(project))


def _incoming(project: Path) -> list[Path]:
    return sorted(file for file in (project / INCOMING).glob("*/*") if file.is_file() and not file.is_symlink())


def _claim(project: Path) -> None:
    """Move what lies in the inbox aside; a file still being written is left for the next time."""
    if any(_age_s(file) < _SETTLE_S for file in _incoming(project)):
        time.sleep(_SETTLE_S)
    files = [file for file in _incoming(project) if _age_s(file) >= _SETTLE_S]
    claim = project / CLAIMS / datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    for file in files:
        (claim / file.parent.name).mkdir(parents=True, exist_ok=True)
        file.rename(claim / file.parent.name / file.name)


def _age_s(file: Path) -> float:
    return time.time() - file.stat().st_mtime


def _take_in(project: Path, claim: Path) -> tuple[int, int, int]:
    images = open_images(project / "data/raw", project / LANDED)
    good, refused = _decode_all(claim, images)
    known = dict(zip((bytes(content) for content in images.content_N), images.labels_N, strict=True))
    fresh: list[Decoded] = []
    for decoded in good:
        content, label = bytes(content_hashes(decoded.pixels[None])[0]), images.classes.index(decoded.file.parent.name)
        if content not in known:
            known[content] = np.int64(label)
            fresh.append(decoded)
        elif known[content] != label:
            refused.append((decoded.file, f"the same pixels are known as {images.classes[known[content]]}"))
    _refuse(project, claim, refused)
    if fresh:
        _land(project, claim, fresh, images.classes)
    left_count = sum(1 for file in claim.glob("*/*") if file.is_file())
    shutil.rmtree(claim)
    return len(fresh), left_count - len(fresh), len(refused)


def _decode_all(claim: Path, images: Images) -> tuple[list[Decoded], list[tuple[Path, str]]]:
    side_px, _, channel_count = images.shape_HWC
    good: list[Decoded] = []
    refused: list[tuple[Path, str]] = []
    for file in sorted(file for file in claim.glob("*/*") if file.is_file()):
        if file.parent.name not in images.classes:
            refused.append((file, f"class {file.parent.name} is not one of {', '.join(images.classes)}"))
            continue
        try:
            good.append(Decoded(file, *decode(file, image_px=side_px, channel_count=channel_count)))
        except ValueError as error:
            refused.append((file, str(error)))
    return good, refused


def _land(project: Path, claim: Path, fresh: list[Decoded], classes: tuple[str, ...]) -> None:
    landed = project / LANDED
    manifest = read_manifest(landed)
    # Labels in a shard count in the order of this manifest's classes, so that list may only grow.
    own_classes = (*manifest["classes"], *(name for name in classes if name not in manifest["classes"]))
    batch = Batch(
        np.stack([decoded.pixels for decoded in fresh]),
        np.array([own_classes.index(decoded.file.parent.name) for decoded in fresh], np.int64),
        np.full(len(fresh), NO_SPLIT, np.int8),
        np.array([decoded.original_px for decoded in fresh], np.int32),
        np.array([f"{decoded.file.parent.name}/{decoded.file.name}" for decoded in fresh]),
    )
    name = f"{claim.name}-{hashlib.sha256(content_hashes(batch.images_NHWC).tobytes()).hexdigest()[:8]}"
    entry: dict[str, Any] = write_shard(landed, name, batch)
    _track(project, [file.relative_to(project).as_posix() for file in shard_of(landed, name)])
    # The manifest is what every stage trusts: it changes last, in one step.
    others = [shard for shard in manifest["shards"] if shard["name"] != name]
    write_text(landed / "manifest.json", manifest_text(own_classes, [*others, entry], {}))


def _track(project: Path, files: list[str]) -> None:
    """Hash the files into DVC's cache, and push them where a default remote is set."""
    _dvc(project, "add", *files)
    if _dvc(project, "config", "core.remote", check=False).strip():
        _dvc(project, "push", *files)


def _dvc(project: Path, *words: str, check: bool = True) -> str:
    answer = subprocess.run(
        ["dvc", *words], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    if check and answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no message"])[0]
        raise PipelineError(
            f"dvc {words[0]} failed: {last}. The images wait in {CLAIMS}; mend it, then: convloop ingest"
        )
    return answer.stdout


def _refuse(project: Path, claim: Path, refused: list[tuple[Path, str]]) -> None:
    for file, reason in refused:
        place = project / REFUSED / claim.name / file.parent.name
        place.mkdir(parents=True, exist_ok=True)
        file.rename(place / file.name)
        (place / f"{file.name}.reason.txt").write_text(reason + "\n", encoding="utf-8")
