"""The graph that is served: uint8 pixels in, probabilities out, normalisation inside."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convloop.core.card import ModelCard, read_card
from convloop.errors import DataError

GRAPH_FILE = Path("data") / "model.pt2"  # where MLflow's own PyTorch flavour keeps it


class Servable(nn.Module):
    """A net between pixels and probabilities: images_NHWC uint8 -> float32 probabilities_NK."""

    def __init__(
        self,
        net: nn.Module,
        mean_C: tuple[float, ...],
        std_C: tuple[float, ...],
        *,
        test_flip: bool = False,
        test_shift_px: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.test_flip, self.test_shift_px = net, test_flip, test_shift_px
        self.register_buffer("mean_C", torch.tensor(mean_C))
        self.register_buffer("std_C", torch.tensor(std_C))

    def forward(self, images_NHWC: Tensor) -> Tensor:
        images_NCHW = normalise(images_NHWC, cast(Tensor, self.mean_C), cast(Tensor, self.std_C))
        logits_NK = logits_of(self.net, images_NCHW, test_flip=self.test_flip, test_shift_px=self.test_shift_px)
        return torch.softmax(logits_NK, 1)


def normalise(images_NHWC: Tensor, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """Turn uint8 pixels into standardised float32 in NCHW, whose memory stays channels-last.

    Whole images less whole means are a fifth of the work of many triples less one.
    """
    pixel_count = images_NHWC.shape[1] * images_NHWC.shape[2]
    own_NP = images_NHWC.to(torch.float32, copy=True, memory_format=torch.contiguous_format).flatten(1)
    own_NP.sub_(mean_C.repeat(pixel_count)).div_(std_C.repeat(pixel_count))
    return own_NP.view(-1, *images_NHWC.shape[1:]).permute(0, 3, 1, 2)


def logits_of(net: Callable[[Tensor], Tensor], images_NCHW: Tensor, *, test_flip: bool, test_shift_px: int) -> Tensor:
    """Give logits_NK, the mean over several views of each image where that is asked for.

    Args:
        test_flip: look at each view and its mirror image.
        test_shift_px: look at the image, for one half, and at the image moved by so much up and left, and down and right,
            for a quarter each; its sides are mirrored outwards (Jordan, 2024, arXiv 2404.00498).
    """

    def answered(view_NCHW: Tensor) -> Tensor:
        logits_NK = net(view_NCHW)
        return (logits_NK + net(view_NCHW.flip(3))) / 2 if test_flip else logits_NK

    if not test_shift_px:
        return answered(images_NCHW)
    height_px, width_px = images_NCHW.shape[2:]
    padded_NCHW = nn.functional.pad(images_NCHW, (test_shift_px,) * 4, mode="reflect")
    down_right_NCHW = padded_NCHW[:, :, :height_px, :width_px]
    up_left_NCHW = padded_NCHW[:, :, -height_px:, -width_px:]
    return answered(images_NCHW) / 2 + (answered(down_right_NCHW) + answered(up_left_NCHW)) / 4


def with_digest(card: ModelCard, net: nn.Module) -> ModelCard:
    """Fill in the digest that names these weights under this card, on every machine the same."""
    facts = asdict(card) | {"digest": ""}
    hasher = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(net.state_dict().items()):
        hasher.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return ModelCard(**{**asdict(card), "digest": hasher.hexdigest()})


class Package:
    """A packaged model, ready to answer on this machine's processor."""

    def __init__(self, folder: Path) -> None:
        self.card = read_card(folder)
        file = folder / GRAPH_FILE
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # older versions of torch warn about their own buffers
                self._graph = torch.export.load(file).module()
        except Exception as error:  # torch raises a dozen kinds for a damaged archive
            raise DataError(f"{file} cannot be loaded: {error}. Make it again: dvc repro --force train") from error

    def probabilities(self, images_NHWC: NDArray[np.uint8], *, batch_size: int) -> NDArray[np.float32]:
        """Answer for any number of uint8 images; float32 probabilities_NK."""
        with torch.inference_mode():
            parts = [self._graph(torch.from_numpy(part)).numpy() for part in _parts(images_NHWC, batch_size)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.card.classes)), np.float32)


def _parts(images_NHWC: NDArray[np.uint8], batch_size: int) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images_NHWC), batch_size):
        yield np.ascontiguousarray(images_NHWC[start : start + batch_size])
