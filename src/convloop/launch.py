"""Start a training again under torchrun or SLURM, where params.yaml asks for that and nobody has done it."""

import os
import shutil
import socket
import sys
from typing import TYPE_CHECKING

import psutil

from convloop.core.cores import share_cores
from convloop.core.ranks import outside_launch, processes_here
from convloop.errors import DeviceError, ParamsError
from convloop.processes import environment, run

if TYPE_CHECKING:
    from convloop.config import TrainParams

# torchrun 2.13 keeps one store for all its restarts, in which the others find the lead's address of before, and fail.
_FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def launch(settings: "TrainParams", words: list[str]) -> int | None:
    """Run `convloop WORDS` once for each device and give the exit code; None where this process is one of those.

    Raises:
        DeviceError: SLURM is not there.
        ParamsError: several hosts, and no address where they meet, or none that this host can reach.
    """
    if settings.launcher == "lightning" or outside_launch():
        return None
    per_node_count = processes_here(settings.devices, settings.accelerator)
    command = _LAUNCHERS[settings.launcher](settings, per_node_count)
    thread_count = share_cores(per_node_count)
    variables = dict(_FRESH_STORE)
    if thread_count:
        variables["OMP_NUM_THREADS"] = str(thread_count)
    if settings.nodes > 1 and "PET_RDZV_ENDPOINT" in os.environ:
        variables |= _interface(own_address(os.environ["PET_RDZV_ENDPOINT"]))
    return run([*command, *words], environment() | variables, end_with_us=True)


def torchrun_words(settings: "TrainParams", per_node_count: int) -> list[str]:
    """Word the call of torchrun; whatever else it can be told, it reads from its own variables PET_*."""
    if settings.nodes == 1:
        meeting = ["--standalone"]
    elif endpoint := os.environ.get("PET_RDZV_ENDPOINT"):
        # torchrun asks the host's name for its address, which is wrong where that is 127.0.1.1 or another network's.
        own = own_address(endpoint)
        meeting = ["--rdzv-backend", os.environ.get("PET_RDZV_BACKEND", "c10d")]
        meeting += ["--local-addr", os.environ.get("PET_LOCAL_ADDR", own)]
        meeting += ["--rdzv-conf", "is_host=1"] if own == _address(endpoint) else []
    elif "PET_MASTER_ADDR" in os.environ:
        meeting = []
    else:
        raise ParamsError(
            f"params.yaml: train.launcher is torchrun and train.nodes is {settings.nodes}, but no address is set where they meet. "
            "On every host: export PET_RDZV_ENDPOINT=<address of one of them>:29400"
        )
    nodes, processes = os.environ.get("PET_NNODES", str(settings.nodes)), str(per_node_count)
    restarts = os.environ.get("PET_MAX_RESTARTS", "3")
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", processes),
        *("--max-restarts", restarts, *meeting, "-m", "convloop"),
    ]


def own_address(endpoint: str) -> str:
    """Give the address under which this host reaches another, by asking the routes; nothing is sent."""
    try:
        address = _address(endpoint)
    except OSError as error:
        raise ParamsError(f"PET_RDZV_ENDPOINT is {endpoint}, which this host cannot find: {error}.") from error
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((address, 9))
        return str(route.getsockname()[0])


def _address(endpoint: str) -> str:
    host = endpoint.rpartition(":")[0] or endpoint
    return str(socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_DGRAM)[0][4][0])


def _interface(address: str) -> dict[str, str]:
    """Tell gloo which network to use: left alone, it too goes by the host's name."""
    for name, addresses in psutil.net_if_addrs().items():
        if "GLOO_SOCKET_IFNAME" not in os.environ and address in [found.address for found in addresses]:
            return {"GLOO_SOCKET_IFNAME": name}
    return {}


def slurm_words(settings: "TrainParams", per_node_count: int) -> list[str]:
    """Word the call of srun, which ends all when one process fails."""
    if shutil.which("srun") is None:
        raise DeviceError("params.yaml: train.launcher is slurm, but there is no srun here. Use lightning or torchrun.")
    return [
        *("srun", f"--nodes={settings.nodes}", f"--ntasks-per-node={per_node_count}", "--kill-on-bad-exit=1"),
        *(sys.executable, "-m", "convloop"),
    ]


_LAUNCHERS = {"torchrun": torchrun_words, "slurm": slurm_words}
