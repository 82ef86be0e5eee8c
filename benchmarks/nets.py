"""What each net reaches, in the pipeline's own train and evaluate stages: one command each, as its docstring claims it.

The data are those that a fresh clone draws (`synthetic`, 16,000 images of 32 px in 10 classes); seconds are those of the whole
command, imports, checkpoints and tracking included. Other work on the machine makes them larger and moves no score.

Usage: python benchmarks/nets.py [--only cnn3,resnet9]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
# Large nets take minutes an epoch on a CPU, and one of them is enough here where the rate falls to 0 at its end.
ONE_EPOCH = ("train.epochs=1", "train.precision=auto", "train.curve=one_cycle", "train.warmup_share=0.2")
WORDS: dict[str, tuple[str, ...]] = {
    "mlp": (),
    "cnn3": (),
    "cnn2": (),
    "cnn": ("train.net.pool=average",),
    "speednet": ONE_EPOCH,
    "resnet9": ONE_EPOCH,
    "wideresnet": ONE_EPOCH,
    "resnet18": ONE_EPOCH,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(WORDS))
    names = parser.parse_args().only.split(",")
    from results_file import write_result

    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "convloop"
        subprocess.run(["git", "clone", "--quiet", ROOT, project], check=True)
        convloop(project, "generate")
        convloop(project, "prepare")
        write_result(
            "-".join(["nets", *(names if names != list(WORDS) else [])]),
            {name: measured(project, name) for name in names},
        )


def measured(project: Path, name: str) -> dict[str, Any]:
    """Train and judge one net."""
    words = [word for one in (f"train.net.name={name}", *WORDS[name]) for word in ("--set", one)]
    started_s = time.monotonic()
    convloop(project, "train", *words, **_NO_GPU)
    train_s = time.monotonic() - started_s
    convloop(project, "evaluate", *words, **_NO_GPU)
    accuracy = json.loads((project / "reports/evaluate/scores.json").read_text())["accuracy"]
    found = {"command": " ".join(["convloop train", *words]), "test_accuracy": accuracy, "train_s": round(train_s, 1)}
    print(f"{name:<12} {accuracy:.4f} {train_s:7.0f} s  {found['command']}", flush=True)
    return found


def convloop(project: Path, *words: str, **variables: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "convloop", *words],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project / "src")} | variables,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"convloop {' '.join(words)}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
