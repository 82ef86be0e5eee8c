"""The sources by the name that `generate.source` gives them."""

from convloop.sources import ReadSource
from convloop.sources.archive import read_archive
from convloop.sources.cifar10 import read_cifar10
from convloop.sources.cifar100 import read_cifar100
from convloop.sources.csv import read_csv
from convloop.sources.drawn import draw_noise, draw_synthetic
from convloop.sources.folder import read_folder
from convloop.sources.idx import read_idx
from convloop.sources.npz import read_npy, read_npz
from convloop.sources.parquet import read_parquet

SOURCES: dict[str, ReadSource] = {
    "synthetic": draw_synthetic,
    "noise": draw_noise,
    "folder": read_folder,
    "csv": read_csv,
    "archive": read_archive,
    "parquet": read_parquet,
    "idx": read_idx,
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "npz": read_npz,
    "npy": read_npy,
}
