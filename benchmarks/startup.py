"""What starting costs: --help, each stage on almost no data, and a repro with nothing to do; wall seconds, 3 times."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from results_file import write_result

PROJECT = Path(__file__).parents[1]
REPEATS = 3
SMALL = "generate: {image_count: 300, class_count: 3}\nprepare: {min_class_image_count: 1}\ntrain: {epochs: 1}\n"
WORDS = ("--help", "generate", "prepare", "train", "evaluate", "register")


def wall_s(words: list[str], folder: Path) -> float:
    start_s = time.perf_counter()
    subprocess.run(words, cwd=folder, env=environment(folder), check=True, capture_output=True)
    return time.perf_counter() - start_s


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder / "src")}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        subprocess.run(["git", "clone", "-q", str(PROJECT), str(folder)], check=True)
        (folder / "params.yaml").write_text(SMALL + "evaluate: {}\nregister: {min_accuracy_share: 0.0}\n")
        subprocess.run(["dvc", "repro"], cwd=folder, env=environment(folder), check=True, capture_output=True)
        figures = {}
        for word in WORDS:
            rows = []
            for _ in range(REPEATS):
                shutil.rmtree(folder / "work/checkpoints", ignore_errors=True)
                rows.append(wall_s([sys.executable, "-m", "convloop", word], folder))
            figures[f"convloop {word}"] = rows
        subprocess.run(["dvc", "repro"], cwd=folder, env=environment(folder), check=True, capture_output=True)
        figures["dvc repro, nothing to do"] = [wall_s(["dvc", "repro"], folder) for _ in range(REPEATS)]
    for name, rows in figures.items():
        print(f"{name:<26} {median(rows):6.2f} s  (min {min(rows):.2f}, max {max(rows):.2f})")
    write_result("startup", {"wall_s": figures})
