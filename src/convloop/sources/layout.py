"""Which folder of a path names the class, which the split: the same for folders and archives."""

from collections.abc import Iterable
from dataclasses import dataclass

from convloop.core.images import NO_SPLIT
from convloop.core.split import TEST, TRAIN, VAL
from convloop.sources import ordered_classes

SPLIT_FOLDERS = {
    "train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST, "testing": TEST,
}  # fmt: skip
NO_CLASS = "lies in no class folder"


@dataclass(frozen=True)
class Layout:
    """`above_count` folders wrap everything; below them a split folder if `has_splits`, then the class folder."""

    above_count: int
    has_splits: bool
    classes: tuple[str, ...]

    def place(self, folders: tuple[str, ...]) -> tuple[int, int] | None:
        """Give label and split of a file by the folders that it lies in, or None outside of class folders."""
        level = self.above_count + self.has_splits
        if len(folders) <= level:
            return None
        split = SPLIT_FOLDERS[folders[level - 1].lower()] if self.has_splits else NO_SPLIT
        return self.classes.index(folders[level]), split


def find_layout(files_folders: Iterable[tuple[str, ...]]) -> Layout:
    """Find classes and splits from the folders that hold files; with no class folders, the classes are empty."""
    folders = {folder for folder in files_folders if folder}
    above_count = 0
    while len({folder[above_count] for folder in folders if len(folder) > above_count}) == 1 and any(
        len(folder) > above_count + 1 for folder in folders
    ):
        above_count += 1
    tops = {folder[above_count] for folder in folders if len(folder) > above_count}
    has_splits = (
        len(tops) > 1
        and all(top.lower() in SPLIT_FOLDERS for top in tops)
        and any(SPLIT_FOLDERS[top.lower()] == TRAIN for top in tops)
    )
    level = above_count + has_splits
    return Layout(above_count, has_splits, ordered_classes(folder[level] for folder in folders if len(folder) > level))
