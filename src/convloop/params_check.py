"""Read params.yaml once and check it at the door: each key alone, then those that must agree."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from convloop.config import (
    CURVE_NAMES,
    NET_KEYS,
    OPTIMIZER_NAMES,
    READS_PATH,
    SOURCE_NAMES,
    TIMM_KEYS,
    TIMM_PREFIX,
    Params,
    RangeParams,
    TrainParams,
)
from convloop.errors import ParamsError
from convloop.params_file import FILE_NAME, flatten, override, read_tree, with_value
from convloop.params_wording import lines_of

_DEPTHS = {"wideresnet": (6, 4), "speednet": (3, 2)}  # layers: a multiple of the first and the second


def load(file: Path, overrides: tuple[str, ...] = ()) -> Params:
    """Read and check params.yaml.

    Args:
        overrides: `section.key=value` for this run alone; the value is read as YAML.

    Raises:
        ParamsError: with the file, the key, what was received and what is allowed.
    """
    tree = read_tree(file)
    for assignment in overrides:
        override(tree, assignment)
    return check(tree)


def check(tree: dict[str, Any]) -> Params:
    """Turn plain values into Params, or say which key is wrong and how."""
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        raise ParamsError("\n".join(lines_of(error.errors(include_url=False)))) from None
    _check_names(params)
    _check_together(params)
    return params


def _check_names(params: Params) -> None:
    for where, name, plural, known in (
        ("generate.source", params.generate.source, "sources", SOURCE_NAMES),
        ("train.net.name", params.train.net.name, "nets", tuple(NET_KEYS)),
        ("train.optimizer", params.train.optimizer, "optimizers", OPTIMIZER_NAMES),
        ("train.curve", params.train.curve, "curves", CURVE_NAMES),
    ):
        if name not in known and not (where == "train.net.name" and name.startswith(TIMM_PREFIX)):
            near = get_close_matches(name, known, n=1, cutoff=0)
            raise ParamsError(
                f'{FILE_NAME}: {where} is "{name}". Known {plural}: {", ".join(known)}. Did you mean {near[0]}?'
            )


def _check_together(params: Params) -> None:
    net = params.train.net
    for key in type(net).model_fields:
        if key != "name" and getattr(net, key) is not None and key not in NET_KEYS.get(net.name, TIMM_KEYS):
            takers = [name for name, keys in {**NET_KEYS, "timm:<name>": TIMM_KEYS}.items() if key in keys]
            raise ParamsError(
                f"{FILE_NAME}: train.net.{key} is set, but {net.name} takes no such key. "
                f"Remove it, or set train.net.name to {' or '.join(takers)}."
            )
    if net.depth is not None:
        step, rest = _DEPTHS[net.name]
        below = (net.depth - rest) // step * step + rest
        if net.depth != below:
            near = " or ".join(str(depth) for depth in (below, below + step) if depth >= 8)
            raise ParamsError(
                f"{FILE_NAME}: train.net.depth is {net.depth}, which is not {step}n + {rest} as {net.name} wants it. Use {near}."
            )
    if net.padding == "same" and (net.kernel_px or 3) % 2 == 0:
        raise ParamsError(
            f"{FILE_NAME}: train.net.padding is same, which needs an odd kernel, but train.net.kernel_px is {net.kernel_px}. "
            f"Use {(net.kernel_px or 3) - 1} or {(net.kernel_px or 3) + 1}."
        )
    if params.prepare.val_share + params.prepare.test_share >= 1:
        total = params.prepare.val_share + params.prepare.test_share
        raise ParamsError(
            f"{FILE_NAME}: prepare.val_share and prepare.test_share are {total:g} together, which leaves nothing to train on. "
            "Keep the two below 1."
        )
    for key in ("original_px_range", "brightness_range"):
        limits = getattr(params.prepare, key)
        if limits and limits[0] > limits[1]:
            raise ParamsError(
                f"{FILE_NAME}: prepare.{key} is {limits}; the least comes first. Use {[limits[1], limits[0]]}."
            )
    if params.generate.source in READS_PATH and params.generate.path is None:
        raise ParamsError(
            f"{FILE_NAME}: generate.source is {params.generate.source}, but generate.path is empty. Set it to the folder or file to read."
        )
    if params.train.momentum is not None and params.train.optimizer not in ("sgd", "muon"):
        raise ParamsError(
            f"{FILE_NAME}: train.momentum is {params.train.momentum:g}, but {params.train.optimizer} takes none. "
            "Remove it, or set train.optimizer to sgd or muon."
        )
    if params.train.class_weights != "none" and params.train.sampling == "balanced":
        raise ParamsError(
            f"{FILE_NAME}: train.class_weights is {params.train.class_weights} and train.sampling is balanced, "
            "which would correct the same imbalance twice. Set train.class_weights to none or train.sampling to shuffled."
        )
    for key, values in params.tune.space.items():
        _check_space(params, f"tune.space.{key}", key, values)
    _check_devices(params.train)


def _check_devices(train: TrainParams) -> None:
    """Check what is known without looking at the machine; `training.devices` checks the rest."""
    cpu, strategy = train.accelerator == "cpu", f"train.strategy is {train.strategy}"
    device_count = 0 if train.devices == "auto" else train.devices * train.nodes
    no_gpu = "needs a GPU, but train.accelerator is cpu"
    splits_weights = "fsdp" in train.strategy or "deepspeed" in train.strategy
    starts_children = any(word in train.strategy for word in ("spawn", "fork", "notebook"))
    for wrong, received, why, allowed in (
        (cpu and train.precision == "fp16", "train.precision is fp16", no_gpu, "bf16"),
        (cpu and train.sync_batchnorm, "train.sync_batchnorm is true", no_gpu, "false"),
        (cpu and train.images_in == "device", "train.images_in is device", no_gpu, "memory"),
        (cpu and "deepspeed" in train.strategy, strategy, no_gpu, "ddp"),
        (cpu and train.strategy == "fsdp_cpu_offload", strategy, no_gpu, "fsdp"),
        (
            train.strategy in ("fsdp", "deepspeed") and train.precision == "fp16",
            strategy,
            "cannot train in fp16",
            "ddp, or bf16",
        ),
        (
            train.strategy == "deepspeed" and train.accumulate > 1,
            strategy,
            "carries pieces of a step from one epoch into the next, and loses them at a stop",
            "ddp, or train.accumulate: 1",
        ),
        (
            train.strategy.startswith("deepspeed_"),
            strategy,
            "keeps folders for checkpoints, from which a training cannot go on",
            "deepspeed or fsdp",
        ),
        (
            train.strategy == "fsdp" and train.compile,
            strategy,
            "splits each layer, of which train.compile can fuse little or nothing",
            "ddp, or train.compile: false",
        ),
        (train.strategy == "fsdp" and train.sync_batchnorm, strategy, "has no train.sync_batchnorm", "ddp"),
        (
            splits_weights and train.average_share > 0,
            strategy,
            "splits weights, of which train.average_share wants all",
            "ddp",
        ),
        (splits_weights and train.optimizer == "muon", strategy, "splits weights, of which muon wants all", "ddp"),
        (device_count == 1 and train.sync_batchnorm, "train.sync_batchnorm is true", "needs several devices", "false"),
        (
            device_count > 1 and train.strategy == "single_device",
            strategy,
            f"takes one device of {device_count}",
            "ddp",
        ),
        (
            train.nodes > 1 and starts_children,
            strategy,
            f"starts processes on one host, but train.nodes is {train.nodes}",
            "ddp",
        ),
        (
            train.launcher != "lightning" and starts_children,
            strategy,
            f"starts processes itself, but train.launcher is {train.launcher}",
            "ddp",
        ),
    ):
        if wrong:
            raise ParamsError(f"{FILE_NAME}: {received}, which {why}. Use {allowed}.")
    share = max(device_count, 1) * train.accumulate
    if train.batch_size % share:
        below = train.batch_size // share * share
        choices = " or ".join(str(size) for size in (below, below + share) if size)
        who = f"{device_count} devices" if device_count > 1 else "a device"
        pieces = f" in {train.accumulate} pieces" if train.accumulate > 1 else ""
        raise ParamsError(
            f"{FILE_NAME}: train.batch_size is {train.batch_size}, which {who} cannot share evenly{pieces}. Use {choices}."
        )


def _check_space(params: Params, where: str, key: str, values: RangeParams) -> None:
    known = [key for key, _ in flatten(params.model_dump(include={"train"}))]
    if key not in known:
        near = get_close_matches(key, known, n=1, cutoff=0)
        raise ParamsError(f"{FILE_NAME}: {where} is not a key of train. Did you mean tune.space.{near[0]}?")
    if key in ("train.seed", "train.epochs"):
        other = "convloop tune repeats" if key == "train.seed" else "tune.epochs"
        raise ParamsError(f"{FILE_NAME}: {where} cannot be searched. Remove it, and use {other}.")
    if (values.choices is None) == (values.low is None) or (values.low is None) != (values.high is None):
        raise ParamsError(f"{FILE_NAME}: {where} needs either low and high, or choices.")
    if values.low is not None and values.high is not None:
        if values.low >= values.high:
            raise ParamsError(
                f"{FILE_NAME}: {where}.low is {values.low:g}; it must be less than high, {values.high:g}."
            )
        if values.log and values.low <= 0:
            raise ParamsError(f"{FILE_NAME}: {where}.low is {values.low:g}; with log it must be more than 0.")
    for value in values.ends():
        try:
            TrainParams.model_validate(with_value({"train": params.train.model_dump()}, key, value)["train"])
        except ValidationError as error:
            details = [{**detail, "loc": ("train", *detail["loc"])} for detail in error.errors(include_url=False)]
            raise ParamsError(f"{lines_of(details)[0]} It is in {where}.") from None
