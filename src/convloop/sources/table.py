"""The sources by the name that `generate.source` gives them."""

from convloop.sources import ReadSource
from convloop.sources.cifar10 import read_cifar10
from convloop.sources.drawn import draw_noise, draw_synthetic
from convloop.sources.npz import read_npz

SOURCES: dict[str, ReadSource] = {
    "synthetic": draw_synthetic,
    "noise": draw_noise,
    "cifar10": read_cifar10,
    "npz": read_npz,
}
