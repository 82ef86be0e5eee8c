"""How fast an epoch of training is: our stage beside hand-written loops, plain Lightning and Keras, in one run.

Every round trains each of them once, in a process of its own, on the same random 32x32x3 images; the figure is the median
epoch (the first one left out) as images/s, and its ratio to another one of the same round. Other work on the machine blurs
ratios of wall time; those of CPU time with --threads 1 stand it better.

    ours            what `convloop train` runs: validation, checkpoints and history of every epoch included
    ours files      the same with the images left in their files, in the page cache
    hand            the best loop that can be written by hand for it: ready batches, channels-last, fused Adam, no waiting
    torch loader    a usual PyTorch loop: float NCHW images, DataLoader, Adam, the loss read at every step
    lightning       a usual LightningModule with DataLoader, which logs its loss and a torchmetrics accuracy at every step
    keras           the article's code: float images, `model.fit`; needs --keras, a python that has tensorflow

Usage: python benchmarks/train.py [--keras PYTHON] [--rounds 5] [--threads 2] [--only cnn3:64,cnn2:512]
       [--kinds ours,hand]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from convloop.training.pixels import MappedPixels

CASES = {"cnn3:64": 25_600, "cnn2:32": 25_600, "cnn3:512": 25_600, "cnn2:512": 25_600, "resnet18:512": 1_024}
KINDS = ("ours", "ours files", "ours bf16", "hand", "hand bf16", "torch loader", "lightning", "keras")
EPOCHS = 4
Seconds = tuple[float, float]  # of the wall clock, and of CPU time in all threads
PAIRS = (
    ("ours", "hand"),
    ("ours bf16", "hand bf16"),
    ("ours files", "ours"),
    ("ours", "keras"),
    ("ours bf16", "keras"),
    ("ours", "lightning"),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--keras", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--kinds", default=",".join(KINDS), help="ours among them")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "CASE"), help="run one of them here and print its figures")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(train_one(*arguments.one)))
        return
    from results_file import write_result

    results: dict[str, Any] = {"threads": arguments.threads, "peak": json.loads(_child(arguments, "peak", "cnn3:64"))}
    print(f"measured peak, {arguments.threads} threads: {results['peak']}")
    for case in arguments.only.split(","):
        results[case] = compare(arguments, case, results["peak"])
        some = "" if arguments.only == ",".join(CASES) else "-" + arguments.only.replace(":", "-").replace(",", "-")
        write_result(f"train{some}", results)


def compare(arguments: argparse.Namespace, case: str, peak: dict[str, float]) -> dict[str, Any]:
    """Train with each in turn, round after round."""
    kinds = [kind for kind in KINDS if kind in arguments.kinds.split(",")]
    if not arguments.keras or not case.startswith("cnn"):
        kinds = [kind for kind in kinds if kind != "keras"]
    rounds = []
    for number in range(arguments.rounds):
        order = kinds if number % 2 == 0 else kinds[::-1]
        rounds.append({kind: json.loads(_child(arguments, kind, case)) for kind in order})
    print(f"\n{case}, median of {arguments.rounds} rounds{'':14}images/s   share of peak   peak MB")
    flops = rounds[0]["ours"]["training_flops_per_image"]
    figures: dict[str, Any] = {"images": CASES[case]}
    for kind in kinds:
        rate = median(one[kind]["images_per_s"] for one in rounds)
        share = rate * flops / peak["bf16" if "bf16" in kind else "fp32"]
        memory_mb = median(one[kind]["peak_mb"] for one in rounds)
        figures[kind] = {"images_per_s": rate, "share_of_peak": share, "peak_mb": memory_mb}
        print(f"  {kind:<40} {rate:9,.0f} {share:13.2f} {memory_mb:11,.0f}")
    for one, other in PAIRS:
        if one in kinds and other in kinds:
            for unit in ("images_per_s", "images_per_cpu_s"):
                ratios = sorted(turn[one][unit] / turn[other][unit] for turn in rounds)
                figures[f"{one} / {other}, {unit}"] = [median(ratios), ratios[0], ratios[-1]]
                spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
                print(f"  {f'{one} / {other}, {unit}':<40} {median(ratios):9.2f}   {spread}")
    return figures


def _child(arguments: argparse.Namespace, kind: str, case: str) -> str:
    python = arguments.keras if kind == "keras" else sys.executable
    threads = str(arguments.threads)
    quiet = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ended = subprocess.run(
        [python, __file__, "--one", kind, case],
        env=os.environ | quiet | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        sys.exit(f"{kind} {case}: {ended.stderr[-2000:]}")
    return ended.stdout.strip().splitlines()[-1]


def train_one(kind: str, case: str) -> dict[str, float]:
    """Train EPOCHS epochs and tell how fast the median one was, and what memory it took at most."""
    if kind == "peak":
        return measured_peak()
    net_name, batch_size = case.split(":")
    run = {"ours": ours, "hand": hand, "torch": torch_loader, "lightning": lightning, "keras": keras}[kind.split()[0]]
    how = {"files": True} if kind == "ours files" else {}
    epochs = run(net_name, int(batch_size), CASES[case], "bf16" in kind, **how)
    figures = {
        "images_per_s": CASES[case] / median(wall_s for wall_s, _ in epochs[1:]),
        "images_per_cpu_s": CASES[case] / median(cpu_s for _, cpu_s in epochs[1:]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if kind == "ours":
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            _net(net_name)(torch.zeros(2, 3, 32, 32)).sum().backward()
        figures["training_flops_per_image"] = counter.get_total_flops() / 2
    return figures


def now() -> Seconds:
    return time.perf_counter(), time.process_time()


def since(started: Seconds) -> Seconds:
    return time.perf_counter() - started[0], time.process_time() - started[1]


def measured_peak() -> dict[str, float]:
    """Give the best FLOP rate of large matrix products here, by precision."""
    import torch

    best = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        one = torch.randn(2048, 2048).to(dtype)
        rates = []
        for _ in range(30):
            started_s = time.perf_counter()
            one @ one
            rates.append(2 * 2048**3 / (time.perf_counter() - started_s))
        best[name] = max(rates)
    return best


def _images(count: int) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    torch.manual_seed(7)
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8), torch.randint(0, 10, (count,))


def _net(name: str) -> "nn.Module":
    from convloop.core.nets import NETS

    return NETS[name](32, 3, 10)


def ours(net_name: str, batch_size: int, count: int, bf16: bool, files: bool = False) -> list[Seconds]:
    from convloop.config import TrainParams
    from convloop.core.history import read_history
    from convloop.core.state import opened
    from convloop.runs import SilentRun
    from convloop.training.classifier import Classifier
    from convloop.training.loaders import Batches
    from convloop.training.trainer import fit

    images_NHWC, labels_N = _images(count)
    settings = TrainParams(
        epochs=EPOCHS, batch_size=batch_size, accelerator="cpu", devices=1, precision="bf16" if bf16 else 32
    )
    val = (images_NHWC[:64], labels_N[:64])
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder) / "state") as resume_from:
        train = (_in_files(images_NHWC, Path(folder)) if files else images_NHWC, labels_N)
        batches = Batches(train, val, batch_size=batch_size, seed=settings.seed)
        fit(
            Classifier(_net(net_name), (127.5,) * 3, (73.9,) * 3, settings.lr),
            batches,
            settings,
            image_count=count,
            state=Path(folder) / "state",
            resume_from=resume_from,
            run=SilentRun(),
        )
        walls = [(count / row["train/images_per_s"], row) for row in read_history(Path(folder) / "state/history.csv")]
        return [(wall_s, wall_s * row["system/cpu_share"] * (os.cpu_count() or 1)) for wall_s, row in walls]


def _in_files(images_NHWC: "torch.Tensor", folder: Path) -> "MappedPixels":
    import numpy as np

    from convloop.core.images import SHARD_IMAGE_COUNT
    from convloop.training.pixels import MappedPixels

    shards = []
    for number, shard in enumerate(images_NHWC.split(SHARD_IMAGE_COUNT)):
        np.save(folder / f"{number}.npy", shard.numpy())
        shards.append(np.load(folder / f"{number}.npy", mmap_mode="r"))
    return MappedPixels(tuple(shards), np.arange(len(images_NHWC)))


def hand(net_name: str, batch_size: int, count: int, bf16: bool) -> list[Seconds]:
    import torch
    from torch.nn.functional import cross_entropy

    from convloop.training.memory import keep_freed_memory

    keep_freed_memory()
    images_NHWC, labels_N = _images(count)
    net = _net(net_name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001, fused=True)
    seconds = []
    for _ in range(EPOCHS):
        started = now()
        total = torch.zeros(())
        for batch_B in torch.randperm(count).split(batch_size):
            pixels_NCHW = images_NHWC.index_select(0, batch_B).permute(0, 3, 1, 2)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits_NK = net(pixels_NCHW.float().sub_(127.5).mul_(1 / 73.9))
            loss = cross_entropy(logits_NK.float(), labels_N.index_select(0, batch_B))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()
        seconds.append(since(started))
    return seconds


def torch_loader(net_name: str, batch_size: int, count: int, bf16: bool) -> list[Seconds]:
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset

    images_NHWC, labels_N = _images(count)
    data = TensorDataset(images_NHWC.permute(0, 3, 1, 2).float().div(255).contiguous(), labels_N)
    net = _net(net_name)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    seconds = []
    for _ in range(EPOCHS):
        started = now()
        total = 0.0
        for images_NCHW, labels_B in DataLoader(data, batch_size, shuffle=True):
            loss = cross_entropy(net(images_NCHW), labels_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        seconds.append(since(started))
    return seconds


def lightning(net_name: str, batch_size: int, count: int, bf16: bool) -> list[Seconds]:
    import logging

    import lightning.pytorch as pl
    import torch
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, TensorDataset
    from torchmetrics.classification import MulticlassAccuracy

    class Usual(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.accuracy, self.seconds = _net(net_name), MulticlassAccuracy(10), list[Seconds]()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=0.001)

        def on_train_epoch_start(self) -> None:
            self.started = now()

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
            logits_NK = self.net(batch[0])
            loss = cross_entropy(logits_NK, batch[1])
            self.accuracy(logits_NK, batch[1])
            self.log("train/loss", loss)
            self.log("train/accuracy", self.accuracy, on_epoch=True)
            return loss

        def on_train_epoch_end(self) -> None:
            self.seconds.append(since(self.started))

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images_NHWC, labels_N = _images(count)
    data = TensorDataset(images_NHWC.permute(0, 3, 1, 2).float().div(255).contiguous(), labels_N)
    usual = Usual()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=EPOCHS, default_root_dir=folder)
        trainer.fit(usual, DataLoader(data, batch_size, shuffle=True))
    return usual.seconds


def keras(net_name: str, batch_size: int, count: int, bf16: bool) -> list[Seconds]:
    import numpy as np
    from keras import Sequential, callbacks, layers

    images_NHWC = np.random.rand(count, 32, 32, 3).astype("float32")
    labels_N = np.random.randint(0, 10, count)
    convolution = [(32, "valid"), (64, "valid"), (128, "valid")] if net_name == "cnn3" else [(32, "same"), (64, "same")]
    net = Sequential([layers.Input((32, 32, 3))])
    for filters, padding in convolution:
        net.add(layers.Conv2D(filters, (3, 3), activation="relu", padding=padding))
        net.add(layers.MaxPooling2D((2, 2)))
    net.add(layers.Flatten())
    net.add(layers.Dense(256 if net_name == "cnn3" else 512, activation="relu"))
    net.add(layers.Dense(10, activation="softmax"))
    net.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    seconds: list[Seconds] = []

    class Clock(callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            self.started = now()

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            seconds.append(since(self.started))

    net.fit(images_NHWC, labels_N, batch_size=batch_size, epochs=EPOCHS, verbose=0, callbacks=[Clock()])
    return seconds


if __name__ == "__main__":
    main()
