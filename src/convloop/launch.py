"""Start a training again under torchrun or SLURM, where params.yaml asks for that and nobody has done it."""

import json
import os
import shutil
import socket
import sys
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from convloop.core.cores import share_cores
from convloop.core.folders import write_text
from convloop.core.ranks import outside_launch, processes_here
from convloop.errors import ConvloopError, DeviceError, LostRankError, OutputError, ParamsError
from convloop.processes import environment, run

if TYPE_CHECKING:
    from convloop.config import TrainParams


def launch(settings: "TrainParams", words: list[str]) -> int | None:
    """Run `convloop WORDS` once for each device and give the exit code; None where this process is one of those.

    Raises:
        DeviceError: SLURM is not there.
        ParamsError: several hosts, and no address where they meet, or none that this host can reach.
    """
    if settings.launcher == "lightning" or outside_launch():
        return None
    if "--fresh" in words and ":" in os.environ.get("PET_NNODES", ""):
        raise ParamsError(
            "--fresh would begin again with each host that joins: PET_NNODES is a range. Unset it, or leave out --fresh."
        )
    per_node_count = processes_here(settings.devices, settings.accelerator)
    command = _LAUNCHERS[settings.launcher](settings, per_node_count)
    thread_count = share_cores(per_node_count)
    variables = {"OMP_NUM_THREADS": str(thread_count)} if thread_count else {}
    if settings.nodes > 1 and "PET_RDZV_ENDPOINT" in os.environ:
        variables |= _interface(own_address(os.environ["PET_RDZV_ENDPOINT"]))
    try:
        return run([*command, *words], environment() | variables, end_with_us=True)
    except KeyboardInterrupt:  # those that train have said what is kept
        return 130


def torchrun_words(settings: "TrainParams", per_node_count: int) -> list[str]:
    """Word the call of torchrun; whatever else it can be told, it reads from its own variables PET_*."""
    if settings.nodes == 1:
        meeting = ["--standalone"]
    elif endpoint := os.environ.get("PET_RDZV_ENDPOINT"):
        # torchrun asks the host's name for its address, which is wrong where that is 127.0.1.1 or another network's.
        own = own_address(endpoint)
        meeting = ["--rdzv-backend", os.environ.get("PET_RDZV_BACKEND", "c10d")]
        meeting += ["--local-addr", os.environ.get("PET_LOCAL_ADDR", own)]
        if own == _address(endpoint):
            meeting += ["--rdzv-conf", ",".join(["is_host=1", *filter(None, [os.environ.get("PET_RDZV_CONF")])])]
    elif "PET_MASTER_ADDR" in os.environ:
        meeting = []
    else:
        raise ParamsError(
            f"params.yaml: train.launcher is torchrun and train.nodes is {settings.nodes}, but no address is set where they meet. "
            "On every host: export PET_RDZV_ENDPOINT=<address of one of them>:29400"
        )
    nodes, processes = os.environ.get("PET_NNODES", str(settings.nodes)), str(per_node_count)
    _check_share(settings, nodes, per_node_count)
    restarts = os.environ.get("PET_MAX_RESTARTS", "3")
    return [
        *(sys.executable, "-m", "convloop.torchrun", "--nnodes", nodes, "--nproc-per-node", processes),
        *("--max-restarts", restarts, *meeting, "-m", "convloop"),
    ]


def _check_share(settings: "TrainParams", nodes: str, per_node_count: int) -> None:
    """Check that however many hosts are left can share a batch evenly: found out later, it would end the training."""
    fewest, _, most = nodes.partition(":")
    if not (fewest.isdecimal() and (most or fewest).isdecimal() and 1 <= int(fewest) <= int(most or fewest)):
        raise ParamsError(f"PET_NNODES is {nodes}. Use a number of hosts, such as 2, or the fewest and the most: 1:2")
    for count in range(int(fewest), int(most or fewest) + 1):
        if settings.batch_size % (count * per_node_count * settings.accumulate):
            raise ParamsError(
                f"PET_NNODES is {nodes}, but the devices of {count} hosts cannot share params.yaml: train.batch_size "
                f"{settings.batch_size} evenly. Use another size, or other limits of PET_NNODES."
            )


def tell_torchrun(error: ConvloopError, message: str) -> None:
    """Note for torchrun, in the file that it names to each process, an error that no restart can mend."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ and not isinstance(error, LostRankError):
        note = {"message": message, "errorCode": error.exit_code, "extraInfo": {"timestamp": int(time.time())}}
        with suppress(OutputError):
            write_text(Path(os.environ["TORCHELASTIC_ERROR_FILE"]), json.dumps({"message": note}))


def is_said_first_here(message: str) -> bool:
    """Tell whether no other process that torchrun has started on this host says `message` too, and say so to the others."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return True
    attempt = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).parents[1]
    try:
        (attempt / f"said-{sha256(message.encode()).hexdigest()}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # a full disk may be what is said
        return True
    return True


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
