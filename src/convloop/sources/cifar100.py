"""CIFAR-100: a folder of train and test, as .bin or as pickles; the coarse label becomes a slice.

Source of the format: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convloop.core.images import Batch
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError
from convloop.sources import Source
from convloop.sources.cifar10 import batch_of, checked, read_records
from convloop.sources.pickled import read_pickle

if TYPE_CHECKING:
    from convloop.config import GenerateParams

_CLASS_COUNT = {"fine": 100, "coarse": 20}


def read_cifar100(settings: "GenerateParams") -> Source:
    """Read the official files of either version; names come from fine_label_names.txt or meta, else are numbers.

    Raises:
        DataError: no such folder or files, or a file unreadable, of another length or with labels out of range.
    """
    folder = Path(str(settings.path)).expanduser()
    for ending in (".bin", ""):
        files = [folder / f"train{ending}", folder / f"test{ending}"]
        if all(file.is_file() for file in files):
            names = {kind: _names(folder, kind, binary=bool(ending)) for kind in _CLASS_COUNT}
            return Source(names["fine"], _batches(files, names["coarse"]))
    raise DataError(
        f"params.yaml: generate.path is {folder}, where train.bin and test.bin are missing. "
        "Unpack the binary or the python version of CIFAR-100 and set generate.path to that folder."
    )


def _names(folder: Path, kind: str, *, binary: bool) -> tuple[str, ...]:
    file = folder / (f"{kind}_label_names.txt" if binary else "meta")
    if not file.is_file():
        return tuple(str(label) for label in range(_CLASS_COUNT[kind]))
    if binary:
        names = tuple(file.read_text(encoding="utf-8", errors="replace").split())
    else:
        names = tuple(_name(value) for value in read_pickle(file).get(f"{kind}_label_names", ()))
    if len(set(names)) != _CLASS_COUNT[kind]:
        raise DataError(
            f"{file} names {len(set(names))} {kind} classes, not {_CLASS_COUNT[kind]}. Fetch that file again."
        )
    return names


def _name(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _batches(files: list[Path], coarse_names: tuple[str, ...]) -> Iterator[Batch]:
    slices = np.array([json.dumps({"coarse": name}, ensure_ascii=False) for name in coarse_names])
    for file in files:
        if file.suffix == ".bin":
            labels_N2, planes_NP = read_records(file, 2)
            coarse_N, fine_N = labels_N2.T
        else:
            tree = read_pickle(file)
            fine_N, planes_NP = checked(file, tree.get("fine_labels"), tree.get("data"))
            coarse_N, _ = checked(file, tree.get("coarse_labels"), tree.get("data"))
        if fine_N.max() >= _CLASS_COUNT["fine"] or coarse_N.max() >= _CLASS_COUNT["coarse"]:
            raise DataError(
                f"{file} holds the labels {fine_N.max()} (fine) and {coarse_N.max()} (coarse); "
                "CIFAR-100 has 0 to 99 and 0 to 19. Fetch that file again."
            )
        split = TEST if file.stem == "test" else TRAIN
        yield batch_of(file.stem, split, fine_N, planes_NP, slices[coarse_N])
