"""Look at everything the loop stands on, and say what to do about what is wrong."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from convloop import store
from convloop.config import Params
from convloop.core.cores import available_cores
from convloop.core.images import open_images
from convloop.errors import ConvloopError
from convloop.params_check import check, load
from convloop.params_file import FILE_NAME
from convloop.processes import environment
from convloop.tracking import Tracker

_PACKAGES = ("torch", "lightning", "torchmetrics", "mlflow", "dvc", "numpy")
_LOW_DISK_GB = 2

Check = tuple[bool, str, str]  # fine, what was found, what to do


def examine(project: Path) -> int:
    """Print a line for each check and give 1 when one of them failed."""
    failed = 0
    for fine, found, remedy in _checks(project):
        failed += not fine
        print(f"{'ok  ' if fine else 'FAIL'}  {found}" + ("" if fine else f"\n      -> {remedy}"), flush=True)
    return 1 if failed else 0


def _checks(project: Path) -> Iterator[Check]:
    yield _versions()
    yield _devices()
    params, check = _params(project)
    yield check
    yield _store(project, params)
    yield _dvc(project)
    yield _git(project)
    yield _data(project)
    free_gb = shutil.disk_usage(project).free / 1e9
    yield (
        free_gb > _LOW_DISK_GB,
        f"disk: {free_gb:.0f} GB free",
        "make room: dvc gc -w, then look into work/ and mlruns/",
    )


def _versions() -> Check:
    found, missing = [f"Python {sys.version.split()[0]}"], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return (
            False,
            f"versions: {', '.join(missing)} missing",
            "make the environment again: rm -rf .venv && make repro",
        )
    return True, f"versions: {', '.join(found)}", ""


def _devices() -> Check:
    import torch

    from convloop.training.devices import chosen_precision

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    driver = shutil.which("nvidia-smi") is not None
    if driver and not gpus:
        return (
            False,
            "devices: a GPU driver is there, but torch sees no GPU",
            "install the CUDA build of torch (README)",
        )
    precision = chosen_precision(check({"train": {"precision": "auto"}}).train)
    threads = os.environ.get("OMP_NUM_THREADS", "as many")
    return (
        True,
        f"devices: {available_cores()} CPU cores, threads: {threads}, GPUs: {', '.join(gpus) or 'none'}, "
        f"train.precision auto is {precision}",
        "",
    )


def _params(project: Path) -> tuple[Params, Check]:
    try:
        return load(project / FILE_NAME), (True, "params.yaml: every key is known and in range", "")
    except ConvloopError as error:
        return check({}), (False, f"params: {error}", "edit params.yaml; docs/params.md lists every key")


def _store(project: Path, params: Params) -> Check:
    uri = store.shown_uri(project)
    try:
        repaired = Tracker(project, params.tracking).repair()
    except ConvloopError as error:
        return False, f"store: {error}", "start the server, or unset MLFLOW_TRACKING_URI to use the local store"
    noted = f"; ended {len(repaired)} runs that nobody could end: {', '.join(repaired)}" if repaired else ""
    return True, f"store: {uri} answers{noted}", ""


def _dvc(project: Path) -> Check:
    if not (project / ".dvc").is_dir():
        return False, "dvc: this folder is no DVC project", "restore it: git checkout .dvc"
    answer = subprocess.run(
        ["dvc", "status"], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    if answer.returncode:
        return False, f"dvc: {(answer.stderr.strip().splitlines() or ['failed'])[0]}", "see it whole: dvc status -v"
    state = "up to date" if "up to date" in answer.stdout else "out of date: dvc repro will run stages"
    return True, f"dvc: {state}", ""


def _git(project: Path) -> Check:
    answer = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        return (
            False,
            "git: this folder is no git repository",
            "models lose their commit: git init, git add -A, git commit",
        )
    changed = len(answer.stdout.splitlines())
    return True, f"git: {f'{changed} files changed since the last commit' if changed else 'clean'}", ""


def _data(project: Path) -> Check:
    if not (project / "data/raw").is_dir():
        return True, "data: none yet; dvc repro makes it", ""
    try:
        images = open_images(project / "data/raw", project / "data/landed")
    except ConvloopError as error:
        return False, f"data: {error}", "make the named file again as it says"
    return True, f"data: {len(images):,} images of {len(images.classes)} classes, every checksum right", ""
