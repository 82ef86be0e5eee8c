"""What the presets of CIFAR-10 reach on its 10,000 test images, in the pipeline's own stages, under several seeds.

Each seed is one `convloop train` and `evaluate`. `train_s` are the seconds of its epochs, validation included; `setup_s` those
before them: imports, reading, the first weights. Other work on the machine makes them larger and moves no score.

Usage: python benchmarks/presets.py /data/cifar-10-batches-bin --only cifar10_94 [--seeds 5] [--at-once 2]
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean, stdev

import torch
from nets import ROOT, convloop
from results_file import write_result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", required=True, metavar="PRESET")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=1, help="seeds side by side; they share the cores")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of params.yaml, beside the preset")
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    words = ["generate.source=cifar10", f"generate.path={arguments.data.resolve()}", *arguments.set]
    words = [word for one in words for word in ("--set", one)]
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.at_once) as pool:
        project = Path(folder) / "convloop"
        subprocess.run(["git", "clone", "--quiet", ROOT, project], check=True)
        convloop(project, "tune", "apply", f"presets/{arguments.only}.yaml")
        convloop(project, "generate", *words)
        convloop(project, "prepare", *words)
        thread_count = str(max(1, (os.cpu_count() or 1) // arguments.at_once))
        waiting = {}
        for seed in range(7, 7 + arguments.seeds):
            own = Path(shutil.copytree(project, Path(folder) / str(seed)))
            waiting[pool.submit(measured, own, [*words, "--set", f"train.seed={seed}"], thread_count)] = seed
        for done in as_completed(waiting):
            found[waiting[done]] = done.result()
            print(f"seed {waiting[done]}: {done.result()}", flush=True)
            accuracies = [one["test_accuracy"] for one in found.values()]
            facts = {"set": arguments.set, "at_once": arguments.at_once, **summed_up(accuracies), "seeds": found}
            write_result(f"presets-{arguments.only}", facts, device)


def measured(project: Path, words: list[str], thread_count: str) -> dict[str, float]:
    """Train and judge under one seed."""
    for stage in ("train", "evaluate"):
        convloop(project, stage, *words, OMP_NUM_THREADS=thread_count)
    with (project / "reports/train/history.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    ends_s = [float(row["train/spent_s"]) for row in rows]
    epochs_s = [end_s - begin_s for begin_s, end_s in zip([0.0, *ends_s], ends_s, strict=False)]
    cpus_s = [
        float(row["system/cpu_share"]) * (os.cpu_count() or 1) * one for row, one in zip(rows, epochs_s, strict=True)
    ]
    return {
        "test_accuracy": json.loads((project / "reports/evaluate/scores.json").read_text())["accuracy"],
        "epochs": len(rows),
        "train_s": round(ends_s[-1], 2),
        "train_cpu_s": round(sum(cpus_s), 1),
        "setup_s": round(float(rows[-1]["system/setup_s"]), 2),
    }


def summed_up(accuracies: list[float]) -> dict[str, float]:
    """Give the mean over seeds, and their spread where there are several."""
    spread = {"deviation": round(stdev(accuracies), 5)} if len(accuracies) > 1 else {}
    return {"mean_test_accuracy": round(mean(accuracies), 5), **spread}


if __name__ == "__main__":
    main()
