"""train: data/raw, data/landed, data/prepared -> models/model, reports/train."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convloop import lineage
from convloop.core.card import ModelCard
from convloop.core.folders import fresh_folder
from convloop.core.history import Row, read_history
from convloop.core.images import Images, open_images, read_manifest
from convloop.core.nets import NETS
from convloop.core.package import with_digest
from convloop.core.prepared import read_prepared
from convloop.core.ranks import is_lead
from convloop.core.split import TRAIN, VAL
from convloop.core.state import begin_record, opened, state_folder, unfinished, write_record
from convloop.core.summary import as_text, summarise
from convloop.errors import ParamsError
from convloop.packaging import write_package
from convloop.training.classifier import Classifier, inverse_frequency
from convloop.training.loaders import Batches
from convloop.training.trainer import Fitted, fit

if TYPE_CHECKING:
    from convloop.config import Params, TrainParams
    from convloop.tracking import Tracker

_INPUTS = ("data/raw", "data/landed/manifest.json", "data/prepared")


def train(params: "Params", project: Path, tracker: "Tracker") -> None:
    """Train the net under one MLflow run, going on from where the same training was cut off.

    Under several devices every rank runs this; only the lead records and writes.
    """
    settings = params.train
    images = open_images(project / "data/raw", project / "data/landed")
    prepared = read_prepared(project / "data/prepared", images)
    torch.manual_seed(settings.seed)
    net = build_net(settings, images)
    net_text = as_text(summarise(net, images.shape_HWC[0], images.shape_HWC[2]))
    record = lineage.describe(project, params.flat("generate", "prepare", "train"), _INPUTS)
    state = state_folder(
        project,
        params=record["params"],
        inputs=record["inputs"],
        code=lineage.code_digest(Path(__file__).parents[1]),
    )
    train_indices = prepared.indices(TRAIN)
    batches = Batches(
        _tensors(images, train_indices),
        _tensors(images, prepared.indices(VAL)),
        batch_size=settings.batch_size // settings.accumulate,
        seed=settings.seed,
        sampling=settings.sampling,
    )
    weights_K = None
    if settings.class_weights == "inverse_frequency":
        weights_K = inverse_frequency(torch.from_numpy(images.labels_N[train_indices]), len(images.classes))
    with opened(state) if is_lead() else nullcontext(unfinished(state)) as resume_from:
        if is_lead():
            record = begin_record(state, {"name": _run_name(params)} | record)
            print(net_text, flush=True)
            if resume_from:
                print(f"Going on from {resume_from.relative_to(project)}.", flush=True)
        with tracker.training_run(state) as run:
            run.log_params(record["params"])
            run.log_tags(record["tags"])
            run.log_inputs(record["inputs"])
            fitted = fit(
                Classifier(net, prepared.mean_C, prepared.std_C, settings.lr, weights_K),
                batches,
                settings,
                image_count=len(train_indices),
                state=state,
                resume_from=resume_from,
                run=run,
            )
            if is_lead():
                net = build_net(settings, images)  # the trained one may be split over devices
                net.load_state_dict(fitted.weights)
                card = with_digest(
                    ModelCard(
                        classes=images.classes,
                        image_px=images.shape_HWC[0],
                        channel_count=images.shape_HWC[2],
                        net=settings.net.name,
                        epoch=fitted.epoch,
                        mean_C=prepared.mean_C,
                        std_C=prepared.std_C,
                        fit=read_manifest(project / "data/raw").get("fit", "crop"),
                    ),
                    net,
                )
                record |= _outcome(read_history(state / "history.csv"), fitted) | {"digest": card.digest}
                record["tags"] |= {"world_size": str(fitted.world_size), "precision": fitted.precision}
                _write(project, state, record, net_text, net, card, run.id)


def _write(
    project: Path,
    state: Path,
    record: dict[str, Any],
    net_text: str,
    net: nn.Sequential,
    card: ModelCard,
    run_id: str | None,
) -> None:
    """Put report and package into place, each whole."""
    write_record(state, record)
    with fresh_folder(project / "reports/train") as report:
        for name in ("history.csv", "record.json"):
            shutil.copyfile(state / name, report / name)
        (report / "net.txt").write_text(net_text + "\n", encoding="utf-8")
    with fresh_folder(project / "models/model") as package:
        package.rmdir()  # MLflow insists on making it
        write_package(package, net, card)
        note = {"run_id": run_id, "training_id": record["training_id"], "name": record["name"]}
        (package / "run.json").write_text(json.dumps(note))


def build_net(settings: "TrainParams", images: Images) -> nn.Sequential:
    """Build the net for these images.

    Raises:
        ParamsError: the images are too small for it.
    """
    chosen = settings.net.model_dump(exclude_none=True, exclude={"name"})
    side_px, width_px, channel_count = images.shape_HWC
    if side_px != width_px:
        raise ParamsError(
            f"data/raw holds images of {side_px}x{width_px} pixels; nets take squares. Fit them in generate."
        )
    try:
        return NETS[settings.net.name](side_px, channel_count, len(images.classes), **chosen)
    except ValueError as error:
        raise ParamsError(f"params.yaml: train.net.name is {settings.net.name}, but {error}.") from error


def _run_name(params: "Params") -> str:
    sections = ("generate", "prepare", "train")
    return lineage.run_name(params.flat(*sections), params.model_validate({}).flat(*sections))


def _tensors(images: Images, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images.take(indices)), torch.from_numpy(images.labels_N[indices])


def _outcome(rows: list[Row], fitted: Fitted) -> dict[str, Any]:
    kept = rows[fitted.epoch - 1]
    return {
        "best": {"epoch": float(fitted.epoch), "loss": kept["val/loss"], "accuracy": kept["val/accuracy"]},
        "time_ms": int(rows[-1]["time_ms"]),
    }
