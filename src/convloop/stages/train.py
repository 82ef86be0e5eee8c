"""train: data/raw, data/landed, data/prepared -> models/model, reports/train."""

import json
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from convloop import lineage
from convloop.core.card import ModelCard
from convloop.core.digest import dvc_md5
from convloop.core.folders import fresh_folder
from convloop.core.history import Row, read_history
from convloop.core.images import Images, open_images, read_manifest
from convloop.core.nets import STARTS, build
from convloop.core.package import normalise, with_digest
from convloop.core.prepared import Prepared, read_prepared
from convloop.core.ranks import is_lead
from convloop.core.split import TRAIN, VAL
from convloop.core.state import begin_record, opened, state_folder, unfinished, write_record
from convloop.core.summary import as_text, summarise
from convloop.errors import ParamsError
from convloop.packaging import write_package
from convloop.training.classifier import Classifier, inverse_frequency
from convloop.training.loaders import Batches
from convloop.training.pixels import read_pixels
from convloop.training.recipe import recipe_of
from convloop.training.trainer import Fitted, fit

if TYPE_CHECKING:
    from convloop.config import Params, TrainParams
    from convloop.tracking import Tracker

INPUTS = ("data/raw", "data/landed/manifest.json", "data/prepared")
_START_IMAGE_COUNT = 5000


def train(params: "Params", project: Path, tracker: "Tracker", *, fresh: bool = False) -> None:
    """Train the net under one MLflow run, going on from where the same training was cut off.

    Under several devices every rank runs this; only the lead records and writes.

    Args:
        fresh: begin again, with what was trained before put aside; a restart by torchrun goes on all the same.
    """
    fresh = fresh and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    settings = params.train
    images = open_images(project / "data/raw", project / "data/landed")
    prepared = read_prepared(project / "data/prepared", images)
    classifier = new_classifier(settings, images, prepared)
    net = classifier.net
    net_text = as_text(summarise(net, images.shape_HWC[0], images.shape_HWC[2]))
    record = lineage.describe(project, params.flat("generate", "prepare", "train"), INPUTS)
    weights = {"weights.md5": dvc_md5(Path(settings.net.weights_path))} if settings.net.weights_path else {}
    record["tags"] |= weights
    state = state_folder(
        project,
        params=record["params"],
        inputs=record["inputs"] | weights,
        code=lineage.code_digest(Path(__file__).parents[1]),
    )
    with opened(state, fresh=fresh) if is_lead() else nullcontext(None if fresh else unfinished(state)) as resume_from:
        if is_lead():
            for damaged in sorted(state.glob("*.damaged")):
                print(f"{damaged.relative_to(project)} is put aside: it is damaged.", file=sys.stderr)
            record = begin_record(state, {"name": _run_name(params)} | record)
            print(net_text, flush=True)
            if resume_from:
                print(f"Going on from {resume_from.relative_to(project)}.", flush=True)
        with tracker.training_run(state) as run:
            run.log_params(record["params"])
            run.log_tags(record["tags"])
            run.log_inputs(record["inputs"])
            fitted = fit(
                classifier,
                read_batches(settings, images, prepared),
                settings,
                image_count=len(prepared.indices(TRAIN)),
                state=state,
                resume_from=resume_from,
                run=run,
            )
            if is_lead():
                rows = read_history(state / "history.csv")
                if len(rows) < settings.epochs:
                    print(
                        f"Ended after epoch {len(rows)}: none was better in {settings.stop_after_epoch_count}.",
                        flush=True,
                    )
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
                        test_flip=settings.test_flip,
                        test_shift_px=settings.test_shift_px,
                    ),
                    net,
                )
                record |= _outcome(rows, fitted) | {"digest": card.digest}
                record["tags"] |= {"world_size": str(fitted.world_size), "precision": fitted.precision}
                _write(project, state, record, net_text, net, card, run.id)


def _write(
    project: Path,
    state: Path,
    record: dict[str, Any],
    net_text: str,
    net: nn.Module,
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


def new_classifier(settings: "TrainParams", images: Images, prepared: Prepared) -> Classifier:
    """Build what is to be trained, with the first weights of its seed.

    Raises:
        ParamsError: the images are too small for the net.
    """
    torch.manual_seed(settings.seed)
    net = build_net(settings, images)
    train_indices = prepared.indices(TRAIN)
    if start := STARTS.get(settings.net.name):
        some_NHWC = torch.from_numpy(images.take(train_indices[:_START_IMAGE_COUNT]))
        start(net, normalise(some_NHWC, torch.tensor(prepared.mean_C), torch.tensor(prepared.std_C)))
    weights_K = None
    if settings.class_weights == "inverse_frequency":
        weights_K = inverse_frequency(torch.from_numpy(images.labels_N[train_indices]), len(images.classes))
    return Classifier(net, prepared.mean_C, prepared.std_C, settings.lr, weights_K, recipe_of(settings))


def read_batches(settings: "TrainParams", images: Images, prepared: Prepared) -> Batches:
    """Give the images of train and val, in memory or in their files."""
    train_N, val_N = prepared.indices(TRAIN), prepared.indices(VAL)
    return Batches(
        (read_pixels(images, train_N, settings), torch.from_numpy(images.labels_N[train_N])),
        (read_pixels(images, val_N, settings), torch.from_numpy(images.labels_N[val_N])),
        batch_size=settings.batch_size // settings.accumulate,
        seed=settings.seed,
        sampling=settings.sampling,
        images_in=settings.images_in,
    )


def build_net(settings: "TrainParams", images: Images) -> nn.Module:
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
    for key, px, usual_px in (
        ("augment.shift_px", settings.augment.shift_px, side_px // 8),
        ("augment.cutout_px", settings.augment.cutout_px, side_px // 8),
        ("test_shift_px", settings.test_shift_px, 1),
    ):
        if px >= side_px:
            raise ParamsError(
                f"params.yaml: train.{key} is {px}, but images have {side_px}x{side_px} pixels. "
                f"Use {side_px - 1} or less; {usual_px} is usual."
            )
    try:
        return build(settings.net.name, side_px, channel_count, len(images.classes), **chosen)
    except ValueError as error:
        raise ParamsError(f"params.yaml: train.net.name is {settings.net.name}, but {error}.") from error


def _run_name(params: "Params") -> str:
    sections = ("generate", "prepare", "train")
    return lineage.run_name(params.flat(*sections), params.model_validate({}).flat(*sections))


def _outcome(rows: list[Row], fitted: Fitted) -> dict[str, Any]:
    kept = rows[fitted.epoch - 1]
    return {
        "best": {"epoch": float(fitted.epoch), "loss": kept["val/loss"], "accuracy": kept["val/accuracy"]},
        "time_ms": int(rows[-1]["time_ms"]),
    }
