"""Which of several processes that run the same command may write, and what started them."""

import os
from dataclasses import dataclass
from typing import Literal


def is_lead() -> bool:
    """Tell whether this process is the one that opens runs, prints and writes files.

    Every further device runs the whole command again, so each stage body runs N times.
    """
    if "RANK" in os.environ:  # torchrun, Kubeflow
        return os.environ["RANK"] == "0"
    if "LOCAL_RANK" in os.environ or "NODE_RANK" in os.environ:  # Lightning's launcher, also inside a job of SLURM
        return os.environ.get("NODE_RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "JSM_NAMESPACE_RANK"))


@dataclass(frozen=True)
class Launch:
    """Processes that somebody else has started: `name` is torchrun, slurm or kubeflow."""

    name: str
    node_count: int
    per_node_count: int


def outside_launch() -> Launch | None:
    """Tell what has started the processes of this training, or None where Lightning is to start them.

    In a script of SLURM that does not use `srun` there is one process, whatever SLURM_NTASKS says. Kubeflow's TrainJob
    runs torchrun; its older PyTorchJob starts one process in each pod and sets no LOCAL_RANK.
    """
    found = os.environ
    if "TORCHELASTIC_RUN_ID" in found:
        per_node_count = int(found["LOCAL_WORLD_SIZE"])
        return Launch("torchrun", int(found["WORLD_SIZE"]) // per_node_count, per_node_count)
    if "SLURM_STEP_ID" in found and found.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        node_count = int(found.get("SLURM_STEP_NUM_NODES", found.get("SLURM_NNODES", "1")))
        return Launch("slurm", node_count, int(found.get("SLURM_NTASKS", "1")) // node_count)
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= found.keys() and "LOCAL_RANK" not in found:
        return Launch("kubeflow", int(found["WORLD_SIZE"]), 1)
    return None


def processes_here(devices: int | Literal["auto"], accelerator: str) -> int:
    """Count the processes of a training on this host: one for each device."""
    if launch := outside_launch():
        return launch.per_node_count
    if devices != "auto":
        return devices
    if accelerator == "cpu":
        return 1
    import torch

    return max(1, torch.cuda.device_count())
