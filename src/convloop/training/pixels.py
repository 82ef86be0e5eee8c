"""Where the images of a training lie: on the device, in memory, or in their files."""

import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convloop.core.images import Images, take
from convloop.core.ranks import is_lead, processes_here
from convloop.core.room import available_bytes

if TYPE_CHECKING:
    from convloop.config import TrainParams

_LARGEST_SHARE = 0.5  # of free memory: nets and their steps want some too


class Pixels(Protocol):
    """Some uint8 images_NHWC, given in batches as a tensor gives them."""

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """Give the images at the places `index` of dimension 0."""
        ...


class MappedPixels:
    """Images that stay in their shards: a batch is copied out of the system's page cache, which all processes share."""

    def __init__(self, shards: tuple[NDArray[np.uint8], ...], indices_N: NDArray[np.int64]) -> None:
        self._shards, self._indices_N = shards, indices_N

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        return torch.from_numpy(take(self._shards, self._indices_N[index.numpy()]))

    def __getstate__(self) -> dict[str, Any]:
        """Name the files: a process that Lightning starts maps them itself."""
        places = [(shard.filename, shard.offset, shard.shape) for shard in self._shards if isinstance(shard, np.memmap)]
        return {"places": places, "indices_N": self._indices_N}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._shards = tuple(
            np.memmap(file, np.uint8, mode="r", offset=offset, shape=shape) for file, offset, shape in state["places"]
        )
        self._indices_N = state["indices_N"]


def read_pixels(images: Images, indices_N: NDArray[np.int64], settings: "TrainParams") -> Pixels:
    """Read images into memory, or leave them in their files where params.yaml says so or memory is short.

    Every process of a host has a copy of its own in memory.
    """
    byte_count = len(indices_N) * int(np.prod(images.shape_HWC))
    process_count = processes_here(settings.devices, settings.accelerator)
    is_too_large = byte_count * process_count > _LARGEST_SHARE * available_bytes()
    if settings.images_in == "files" or (settings.images_in == "auto" and is_too_large):
        if settings.images_in == "auto" and is_lead():
            print(
                f"{byte_count / 1e9:.1f} GB of images stay in their files: memory has no room for them twice.",
                file=sys.stderr,
                flush=True,
            )
        return MappedPixels(images.shards, indices_N)
    return torch.from_numpy(images.take(indices_N))


def on_device(pixels: Pixels, device: torch.device, images_in: str) -> Pixels:
    """Move images to the GPU that trains, once, where params.yaml says so or they leave it half its free memory."""
    if device.type != "cuda" or not isinstance(pixels, Tensor) or images_in not in ("auto", "device"):
        return pixels
    free_bytes, _ = torch.cuda.mem_get_info(device)
    if images_in == "auto" and pixels.nbytes > _LARGEST_SHARE * free_bytes:
        return pixels
    return pixels.to(device)
