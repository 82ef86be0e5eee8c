"""What tracking costs an epoch of cnn3 on a CPU: ours, Lightning's MLFlowLogger and autolog beside none, side by side.

Every round trains once with each; the figure is the median epoch (the first one left out) over that of the round without
tracking, in wall and in CPU seconds. `ours, server ...` tracks on a real MLflow server behind a gate that is well, refuses,
fails, is silent or slow. Last, the share of the sending thread in a training's CPU time, which no noise blurs, and what
tracking adds to train and evaluate of a small project from their first line to their last, imports done before.
"""

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import psutil
import torch
from lightning.pytorch.loggers import MLFlowLogger
from results_file import write_result

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.system.fault_server import KINDS, FaultServer, mlflow_server

from convloop import store
from convloop.config import Params
from convloop.core.history import read_history
from convloop.core.nets.plain import cnn3
from convloop.core.state import begin_record, opened
from convloop.core.synth import synthetic_batches
from convloop.params_check import check
from convloop.runs import Run, SilentRun
from convloop.stages.evaluate import evaluate
from convloop.stages.generate import generate
from convloop.stages.prepare import prepare
from convloop.stages.train import train
from convloop.tracking import Tracker
from convloop.training.classifier import Classifier
from convloop.training.history import History
from convloop.training.loaders import Batches
from convloop.training.trainer import fit

IMAGE_COUNT, EPOCHS, BATCH_SIZE = 5_000, 8, 64


class LoggingClassifier(Classifier):
    """What a user of a Lightning logger writes."""

    def training_step(self, *arguments: Any) -> torch.Tensor:
        loss = super().training_step(*arguments)
        self.log("train/step_loss", loss)
        return loss


def batches() -> Batches:
    drawn = list(
        synthetic_batches(
            seed=1,
            image_count=IMAGE_COUNT,
            class_count=10,
            image_px=32,
            channel_count=3,
            difficulty_share=0.5,
            label_noise_share=0,
            imbalance_ratio=1,
            shift_share=0,
        )
    )
    images_NHWC = torch.cat([torch.from_numpy(batch.images_NHWC) for batch in drawn])
    labels_N = torch.cat([torch.from_numpy(batch.labels_N) for batch in drawn])
    cut = IMAGE_COUNT * 9 // 10
    parts = (images_NHWC[:cut], labels_N[:cut]), (images_NHWC[cut:], labels_N[cut:])
    return Batches(*parts, batch_size=BATCH_SIZE, seed=1)


def epoch_s(history: Path) -> tuple[float, float]:
    """Give wall and CPU seconds of the median epoch; all threads of the process count."""
    rows = read_history(history)[1:]
    wall_s = [IMAGE_COUNT / row["train/images_per_s"] for row in rows]
    cpu_s = [row["system/cpu_share"] * (os.cpu_count() or 1) * wall for row, wall in zip(rows, wall_s, strict=True)]
    return median(wall_s), median(cpu_s)


def classifier(kind: type[Classifier] = Classifier) -> Classifier:
    torch.manual_seed(1)
    return kind(cnn3(32, 3, 10), (128.0,) * 3, (60.0,) * 3, 0.001)


def fitted(state: Path, run: Run) -> None:
    fit(
        classifier(),
        batches(),
        image_count=IMAGE_COUNT,
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        keep="last",
        accelerator="cpu",
        devices=1,
        strategy="auto",
        precision=32,
        state=state,
        resume_from=None,
        run=run,
    )


def untracked(folder: Path) -> None:
    folder.mkdir()
    fitted(folder, SilentRun())


def ours(folder: Path) -> None:
    begin = {"name": "benchmark", "params": {}, "inputs": {}, "tags": {}}
    with opened(folder):
        begin_record(folder, begin)
        try:
            with Tracker(folder, Params().tracking).training_run(folder) as run:
                fitted(folder, run)
                raise KeyboardInterrupt  # there is no model to publish
        except KeyboardInterrupt:
            pass


def sender_share(folder: Path) -> float:
    """Give the CPU time of the sending thread over that of the process: exact where two wall clocks are not."""
    with opened(folder):
        begin_record(folder, {"name": "benchmark", "params": {}, "inputs": {}, "tags": {}})
        start_s = time.process_time()
        try:
            with Tracker(folder, Params().tracking).training_run(folder) as run:
                fitted(folder, run)
                sender = next(thread for thread in threading.enumerate() if thread.name == "mlflow-sender")
                cpu = next(row for row in psutil.Process().threads() if row.id == sender.native_id)
                raise KeyboardInterrupt  # there is no model to publish
        except KeyboardInterrupt:
            return (cpu.user_time + cpu.system_time) / (time.process_time() - start_s)


def with_logger(folder: Path, every_step_count: int) -> None:
    folder.mkdir()
    logger = MLFlowLogger("benchmark", tracking_uri=store.tracking_uri(folder))
    plain(folder, logger=logger, log_every_n_steps=every_step_count)


def with_autolog(folder: Path) -> None:
    import mlflow

    folder.mkdir()
    mlflow.set_tracking_uri(store.tracking_uri(folder))
    mlflow.set_experiment("autolog")
    mlflow.pytorch.autolog(log_models=False)
    try:
        plain(folder, logger=False)
    finally:
        mlflow.pytorch.autolog(disable=True)
        if mlflow.active_run():
            mlflow.end_run()


def plain(folder: Path, **settings: Any) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS,
        callbacks=[History(folder / "history.csv", SilentRun(), IMAGE_COUNT, EPOCHS)],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **settings,
    )
    trainer.fit(classifier(LoggingClassifier), batches())


def against(server: FaultServer, kind: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        server.be(kind)
        os.environ["MLFLOW_TRACKING_URI"] = server.uri
        try:
            ours(folder)
        finally:
            del os.environ["MLFLOW_TRACKING_URI"]
            server.be("well")

    return run


class Untracked:
    """Stand where a Tracker stands, and record nothing."""

    @contextmanager
    def training_run(self, state: Path) -> Iterator[Run]:
        yield SilentRun()

    def model_run(self) -> Run:
        return SilentRun()


def pipeline_s(project: Path, params: Params, tracker: Any) -> float:
    shutil.rmtree(project / "work", ignore_errors=True)
    start_s = time.perf_counter()
    train(params, project, tracker)
    evaluate(params, project, tracker)
    return time.perf_counter() - start_s


def added_s(root: Path, rounds: int) -> list[float]:
    """Run train and evaluate with and without tracking, in turn, after a round that is not counted."""
    project = root / "project"
    (project / "data/landed").mkdir(parents=True)
    for name in ("data/landed/manifest.json", "data/takedown.csv", "params.yaml"):
        shutil.copy(Path(__file__).parents[1] / name, project / name)
    params = check({"generate": {"image_count": 2000}, "train": {"epochs": 8}})
    untracked_, tracker = Untracked(), Tracker(project, params.tracking)
    for stage in (generate, prepare):
        stage(params, project, tracker)
    pairs = [[pipeline_s(project, params, one) for one in (untracked_, tracker)] for _ in range(rounds + 1)]
    return [tracked - bare for bare, tracked in pairs[1:]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        os.chdir(root)  # autolog writes where it stands
        os.environ["DVC_ROOT"] = temporary
        store.connect(root, 5)
        (root / "server").mkdir()
        with mlflow_server(root / "server", root / "mlruns/mlflow.db") as port:
            server = FaultServer(port)
            variants: dict[str, Callable[[Path], None]] = {
                "none": untracked,
                "ours, local store": ours,
                **{f"ours, server {kind}": against(server, kind) for kind in ("well", *KINDS)},
                **{
                    f"MLFlowLogger, every {count} steps": lambda folder, count=count: with_logger(folder, count)
                    for count in (1, 50)
                },
                "autolog": with_autolog,
            }
            seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
            for number in range(rounds):
                for name, variant in variants.items():
                    folder = root / f"{number} {name}"
                    variant(folder)
                    seconds[name].append(epoch_s(folder / "history.csv"))
                    print(f"round {number + 1}  {name:<32} {seconds[name][-1][0]:.3f} s an epoch", flush=True)
            server.close()
        added = added_s(root, rounds)
        shares = [sender_share(root / f"share {number}") for number in range(rounds)]
    ratios = {
        name: [
            [value / base for value, base in zip(*pair, strict=True)]
            for pair in zip(rows, seconds["none"], strict=True)
        ]
        for name, rows in seconds.items()
    }
    for name, rows in ratios.items():
        for what, values in zip(("wall", "CPU"), zip(*rows, strict=True), strict=True):
            print(f"{name:<32} {what:<4} {median(values):.3f} of none  (min {min(values):.3f}, max {max(values):.3f})")
    print(f"share of the sending thread: {median(shares):.2%}  (min {min(shares):.2%}, max {max(shares):.2%})")
    print(f"added to train and evaluate: {median(added):.1f} s  (min {min(added):.1f}, max {max(added):.1f})")
    write_result(
        "tracking",
        {
            "epoch_wall_cpu_s": seconds,
            "ratio_to_none": ratios,
            "added_to_pipeline_s": added,
            "sender_cpu_share": shares,
        },
    )
