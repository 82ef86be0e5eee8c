"""What this machine offers to a training: devices, precision, threads, and who started its processes."""

import os
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.kubeflow import KubeflowEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from convloop.core.cores import share_cores
from convloop.core.ranks import Launch
from convloop.errors import DeviceError, ParamsError

if TYPE_CHECKING:
    from convloop.config import TrainParams

_PRECISIONS: dict[int | str, Any] = {32: "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
# Lightning finds most of these itself, but takes a script of SLURM without `srun` for several processes and waits.
_ENVIRONMENTS: dict[str, type[ClusterEnvironment]] = {
    "torchrun": TorchElasticEnvironment,
    "slurm": SLURMEnvironment,
    "kubeflow": KubeflowEnvironment,
}


def device_kind(accelerator: str) -> str:
    """Tell on what `auto` trains: cuda, mps or cpu."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return "cuda"
    return "mps" if accelerator != "cpu" and torch.backends.mps.is_available() else "cpu"


def has_bf16(kind: str) -> bool:
    """Tell whether the device computes in bf16 itself rather than imitating it more slowly."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def chosen_precision(settings: "TrainParams") -> int | str:
    """Give the precision to train in, with `auto` decided."""
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if has_bf16(device_kind(settings.accelerator)) else 32


def check_devices(settings: "TrainParams") -> None:
    """Check what the params alone cannot tell.

    Raises:
        DeviceError: there is no GPU where one is needed, no DeepSpeed, or no compiler.
    """
    if "deepspeed" in settings.strategy and find_spec("deepspeed") is None:
        raise DeviceError(
            f"params.yaml: train.strategy is {settings.strategy}, but DeepSpeed is not installed. "
            'Install it: .venv/bin/pip --isolated install -e ".[deepspeed]"'
        )
    if settings.compile and shutil.which(compiler := os.environ.get("CXX", "g++")) is None:
        raise DeviceError(
            f"params.yaml: train.compile is true, but there is no {compiler}, with which PyTorch compiles. "
            "Install a C++ compiler, name one in CXX, or use false."
        )
    if device_kind(settings.accelerator) != "cpu":
        return
    # PyTorch imitates fp16 on a CPU: cnn3 takes 12 times as long as in 32 bits, resnet9 17 times (AMD EPYC).
    for wrong, received, allowed in (
        (settings.precision == "fp16", "precision is fp16", "bf16 or 32"),
        (settings.sync_batchnorm, "sync_batchnorm is true", "false"),
        (settings.images_in == "device", "images_in is device", "memory"),
        ("deepspeed" in settings.strategy, f"strategy is {settings.strategy}", "ddp"),
    ):
        if wrong:
            raise DeviceError(f"params.yaml: train.{received}, which needs a GPU, and there is none. Use {allowed}.")


def lightning_precision(settings: "TrainParams") -> Any:
    """Word the precision as Lightning does."""
    return _PRECISIONS[chosen_precision(settings)]


def placement(settings: "TrainParams", launch: Launch | None) -> dict[str, Any]:
    """Give Lightning's words for hosts and devices: those of params.yaml, or of what started the processes.

    An elastic launcher may have come up with fewer hosts than it was asked for; the batch is the same for any count.

    Raises:
        ParamsError: the launcher started another number of processes on each host than train.devices.
    """
    if launch is None:
        own = [LightningEnvironment()] if "SLURM_NTASKS" in os.environ else []
        return {"devices": settings.devices, "num_nodes": settings.nodes, "plugins": own}
    if settings.devices not in ("auto", launch.per_node_count):
        raise ParamsError(
            f"params.yaml: train.devices is {settings.devices}, but {launch.name} started {launch.per_node_count} on each host. "
            f"Set train.devices to {launch.per_node_count} or auto, or start {settings.devices}."
        )
    return {
        "devices": launch.per_node_count,
        "num_nodes": launch.node_count,
        "plugins": [_ENVIRONMENTS[launch.name]()],
    }


def share_threads(process_count: int) -> None:
    """Give each of this host's processes its share of the cores, unless OMP_NUM_THREADS says what it is to have.

    The variable is for the processes that Lightning starts. torch counts two threads of one core once: no more than that.
    """
    thread_count = share_cores(process_count)
    if thread_count is not None:
        thread_count = min(thread_count, max(1, torch.get_num_threads() // process_count))
        torch.set_num_threads(thread_count)
        os.environ["OMP_NUM_THREADS"] = str(thread_count)
