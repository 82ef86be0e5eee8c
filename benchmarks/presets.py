"""What the presets of CIFAR-10 reach on its 10,000 test images, in the pipeline's own stages, under several seeds.

Each seed is one `convloop train` and `evaluate`. `train_s` are the seconds of its epochs, validation included; `setup_s` those
before them: imports, reading, the first weights. Other work on the machine makes them larger and moves no score.

Usage: python benchmarks/presets.py /data/cifar-10-batches-bin --only cifar10_94 [--seeds 5] [--set train.precision=32]
"""

import argparse
import csv
import json
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from nets import ROOT, convloop
from results_file import write_result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", required=True, help="names of presets, with commas between")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=7)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of params.yaml, beside the preset")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    results: dict[str, Any] = {"set": arguments.set} if arguments.set else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            project = Path(folder) / name
            subprocess.run(["git", "clone", "--quiet", ROOT, project], check=True)
            convloop(project, "tune", "apply", f"presets/{name}.yaml")
            words = ["generate.source=cifar10", f"generate.path={arguments.data.resolve()}", *arguments.set]
            words = [word for one in words for word in ("--set", one)]
            convloop(project, "generate", *words)
            convloop(project, "prepare", *words)
            results[name] = {"seeds": {}}
            for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
                results[name]["seeds"][seed] = measured(project, [*words, "--set", f"train.seed={seed}"])
                print(f"{name} seed {seed}: {results[name]['seeds'][seed]}", flush=True)
                results[name] |= summed_up([one["test_accuracy"] for one in results[name]["seeds"].values()])
                write_result("-".join(["presets", *names]), results, device)


def measured(project: Path, words: list[str]) -> dict[str, float]:
    """Train and judge under one seed."""
    convloop(project, "train", *words)
    convloop(project, "evaluate", *words)
    with (project / "reports/train/history.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    epochs_s = [float(row["train/spent_s"]) for row in rows]
    lasted_s = [after - before for before, after in zip([0.0, *epochs_s], epochs_s, strict=False)]
    cpu_s = sum(
        float(row["system/cpu_share"]) * (os.cpu_count() or 1) * one_s
        for row, one_s in zip(rows, lasted_s, strict=True)
    )
    return {
        "test_accuracy": json.loads((project / "reports/evaluate/scores.json").read_text())["accuracy"],
        "epochs": len(rows),
        "train_s": round(epochs_s[-1], 2),
        "cpu_s": round(cpu_s, 1),
        "setup_s": round(float(rows[-1]["system/setup_s"]), 2),
    }


def summed_up(accuracies: list[float]) -> dict[str, float]:
    """Give the mean over seeds, and their spread where there are several."""
    spread = {"deviation": round(stdev(accuracies), 5)} if len(accuracies) > 1 else {}
    return {"mean_test_accuracy": round(mean(accuracies), 5), **spread}


if __name__ == "__main__":
    main()
