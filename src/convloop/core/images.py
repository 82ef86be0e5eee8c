"""The one form that all images take on disk: shards of uint8 pixels with facts beside them.

A data folder holds `manifest.json` and, for each shard, `shard-00000.images.npy` (uint8 NHWC, memory-mapped when
read) and `shard-00000.facts.npz` (labels, content and perceptual hashes, given splits, original sizes, names,
slices, original modes). The manifest carries the sha256 of every file. `core.shards` cuts a stream of images into shards.
"""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convloop.core.digest import file_sha256
from convloop.core.modes import MODES, UNKNOWN
from convloop.core.phash import perceptual_hashes
from convloop.errors import DataError

SHARD_IMAGE_COUNT = 10_000  # at most
SPLITS = ("train", "val", "test")
NO_SPLIT = -1
FORMAT = 1
_ENTRY_KEYS = {"name", "image_count", "images_sha256", "facts_sha256"}


@dataclass(frozen=True)
class Batch:
    """Some labelled images on their way into shards.

    `splits_N` holds an index into SPLITS, or NO_SPLIT where the source gives none; `original_px_N2` height and width
    before fitting; `slices_N` a JSON object of what else is known of an image, or "" (all of them when left out);
    `modes_N` the places in modes.MODES of the original modes (gray or RGB bytes when left out, as arrays are).
    """

    images_NHWC: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    splits_N: NDArray[np.int8]
    original_px_N2: NDArray[np.int32]
    names_N: NDArray[np.str_]
    slices_N: NDArray[np.str_] | None = None
    modes_N: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Images:
    """All images of one or several data folders, in shard order; pixels stay memory-mapped until taken.

    `slices_N` and `modes_N` are as in Batch. `arrivals_N` is 0 in the first folder and counts the shards of the others from 1, in the
    order in which they came.
    """

    classes: tuple[str, ...]
    shards: tuple[NDArray[np.uint8], ...]
    labels_N: NDArray[np.int64]
    content_N: NDArray[np.void]
    splits_N: NDArray[np.int8]
    names_N: NDArray[np.str_]
    phash_N: NDArray[np.uint64]
    original_px_N2: NDArray[np.int32]
    arrivals_N: NDArray[np.int32]
    slices_N: NDArray[np.str_] | None = None
    modes_N: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def shape_HWC(self) -> tuple[int, int, int]:
        height_px, width_px, channels = self.shards[0].shape[1:]
        return height_px, width_px, channels

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy the pixels at `indices` into memory, in that order, as uint8 NHWC."""
        return take(self.shards, indices)


def take(shards: tuple[NDArray[np.uint8], ...], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Copy the pixels at `indices`, counted through all shards, into memory, in that order."""
    taken_NHWC = np.empty((len(indices), *shards[0].shape[1:]), np.uint8)
    starts_S = np.cumsum([0, *map(len, shards)])
    shard_M = np.searchsorted(starts_S, indices, side="right") - 1
    for number in np.unique(shard_M):
        here = np.flatnonzero(shard_M == number)
        taken_NHWC[here] = shards[number][indices[here] - starts_S[number]]
    return taken_NHWC


def content_hashes(images_NHWC: NDArray[np.uint8]) -> NDArray[np.void]:
    """Hash the shape and pixels of each image with SHA-256; equal pixels get equal hashes, whatever file they were."""
    shape = str(images_NHWC.shape[1:]).encode()
    digests = b"".join(hashlib.sha256(shape + image.tobytes()).digest() for image in images_NHWC)
    return np.frombuffer(digests, np.dtype("V32"))


def write_shard(folder: Path, name: str, *pieces: Batch) -> dict[str, Any]:
    """Write one shard's two files, the pieces one behind the other, and return its line of the manifest.

    Pixels go straight from the pieces into the file: joined in memory first, they would cost three times as much.
    """
    images_file, facts_file = shard_of(folder, name)
    image_count = sum(len(piece.labels_N) for piece in pieces)
    images_sha256 = hashlib.sha256()
    with images_file.open("wb") as opened:
        for content in _npy_of([piece.images_NHWC for piece in pieces], image_count):
            images_sha256.update(content)
            opened.write(content)
    np.savez(
        facts_file,
        labels=np.concatenate([piece.labels_N for piece in pieces]).astype(np.int64),
        content=np.concatenate([content_hashes(piece.images_NHWC) for piece in pieces]),
        phash=np.concatenate([perceptual_hashes(piece.images_NHWC) for piece in pieces]),
        splits=np.concatenate([piece.splits_N for piece in pieces]).astype(np.int8),
        original_px=np.concatenate([piece.original_px_N2 for piece in pieces]).astype(np.int32),
        names=np.concatenate([piece.names_N for piece in pieces]),
        slices=np.concatenate([slices_of(piece) for piece in pieces]),
        modes=np.concatenate([mode_codes(piece) for piece in pieces]),
    )
    return {
        "name": name,
        "image_count": image_count,
        "images_sha256": images_sha256.hexdigest(),
        "facts_sha256": file_sha256(facts_file),
    }


def _npy_of(pieces_NHWC: list[NDArray[np.uint8]], image_count: int) -> Iterator["bytes | memoryview"]:
    """Give what np.save would write of all pieces in one array."""
    header = io.BytesIO()
    facts = np.lib.format.header_data_from_array_1_0(pieces_NHWC[0])
    facts |= {"shape": (image_count, *pieces_NHWC[0].shape[1:]), "fortran_order": False}
    np.lib.format.write_array_header_1_0(header, facts)
    yield header.getvalue()
    for piece_NHWC in pieces_NHWC:
        yield np.ascontiguousarray(piece_NHWC).reshape(-1).data


def slices_of(batch: Batch) -> NDArray[np.str_]:
    """Give the slices of a batch, empty where it has none."""
    return np.zeros(len(batch.labels_N), "U1") if batch.slices_N is None else batch.slices_N


def mode_codes(batch: Batch) -> NDArray[np.uint8]:
    """Give the original modes of a batch as places in modes.MODES, those of its arrays where it names none."""
    plain = MODES.index("L" if batch.images_NHWC.shape[-1] == 1 else "RGB")
    return np.full(len(batch.labels_N), plain, np.uint8) if batch.modes_N is None else batch.modes_N


def shard_of(folder: Path, name: str) -> tuple[Path, Path]:
    """Give the two files of a shard: pixels and facts."""
    return folder / f"{name}.images.npy", folder / f"{name}.facts.npz"


def manifest_text(classes: tuple[str, ...], shards: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Write out `manifest.json`, the list of what a data folder must hold."""
    manifest = {"format": FORMAT, **facts, "classes": list(classes), "shards": shards}
    return json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read `manifest.json` of a data folder.

    Raises:
        DataError: it is missing or not a manifest.
    """
    file = folder / "manifest.json"
    if not file.is_file():
        raise DataError(f"{file} is missing. Make it: dvc repro generate (data/landed comes with git: git checkout).")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = (
            manifest["format"] == FORMAT
            and isinstance(manifest["classes"], list)
            and all(set(entry) >= _ENTRY_KEYS for entry in manifest["shards"])
        )
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        remedy = f"Restore it: git checkout {file}" if folder.name == "landed" else _remedy(folder)
        raise DataError(f"{file} is damaged: it is not a manifest. {remedy}")
    return manifest


def open_images(*folders: Path) -> Images:
    """Open data folders as one set after checking every file against its manifest.

    The first folder names the classes; the others may hold fewer, and are matched by name.

    Raises:
        DataError: a file is missing or damaged, or the folders do not fit together; the file is named.
    """
    classes: tuple[str, ...] = ()
    shards: list[NDArray[np.uint8]] = []
    arrival = 0
    names = ("labels", "content", "splits", "names", "phash", "original_px", "arrivals", "slices", "modes")
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for folder in folders:
        manifest = read_manifest(folder)
        if not manifest["shards"]:
            continue
        classes = classes or tuple(manifest["classes"])
        to_label = _label_map(folder, tuple(manifest["classes"]), classes)
        for entry in manifest["shards"]:
            images_NHWC, facts = _open_shard(folder, entry)
            if shards and images_NHWC.shape[1:] != shards[0].shape[1:]:
                got, first = _by(images_NHWC.shape[1:]), _by(shards[0].shape[1:])
                raise DataError(
                    f"{folder / entry['name']} holds images of {got}, but {folders[0]} of {first}. "
                    "Set generate.image_px back, or remove that shard's line from the manifest and its files."
                )
            arrival += folder != folders[0]
            shards.append(images_NHWC)
            facts["arrivals"] = np.full(len(images_NHWC), arrival, np.int32)
            facts["labels"] = to_label[facts["labels"]]
            for name, column in columns.items():
                column.append(facts[name])
    return Images(
        classes,
        tuple(shards),
        *(np.concatenate(columns[name]) for name in columns),
    )


def _open_shard(folder: Path, entry: dict[str, Any]) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    images_file, facts_file = shard_of(folder, entry["name"])
    for file, expected in ((images_file, entry["images_sha256"]), (facts_file, entry["facts_sha256"])):
        if not file.is_file():
            raise DataError(f"{file} is missing, but {folder / 'manifest.json'} lists it. {_remedy(folder)}")
        received = file_sha256(file)
        if received != expected:
            raise DataError(
                f"{file} is damaged: its sha256 is {received[:12]}, the manifest says {expected[:12]}. {_remedy(folder)}"
            )
    with np.load(facts_file) as archive:
        facts = {name: archive[name] for name in archive.files}
    images_NHWC = np.load(images_file, mmap_mode="r")
    facts.setdefault("slices", np.zeros(entry["image_count"], "U1"))  # landed before there were slices
    facts.setdefault("modes", np.full(entry["image_count"], MODES.index(UNKNOWN), np.uint8))
    if "phash" not in facts:  # landed before there were perceptual hashes
        facts["phash"] = perceptual_hashes(images_NHWC)
    return images_NHWC, facts


def _label_map(folder: Path, own: tuple[str, ...], classes: tuple[str, ...]) -> NDArray[np.int64]:
    unknown = sorted(set(own) - set(classes))
    if unknown:
        raise DataError(
            f"{folder} holds the class {unknown[0]}, which is not one of {', '.join(classes)}. "
            "Add images of it to the source, or take its shard out of that manifest."
        )
    return np.array([classes.index(name) for name in own], np.int64)


def _remedy(folder: Path) -> str:
    if folder.name == "landed":
        return "Fetch it: dvc checkout, or dvc pull where a remote is set."
    return f"Make it again: dvc repro --force {'prepare' if folder.name == 'prepared' else 'generate'}"


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)
