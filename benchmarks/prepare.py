"""prepare at 100,000 and 1,000,000 images of 32 px: seconds, and memory of its own beside pixels mapped from disk.

Mapped pages are the system's to take back at any time; what a process needs is its anonymous memory (RssAnon).
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from results_file import write_result

from convloop.core.images import manifest_text
from convloop.params_check import check
from convloop.stages.generate import generate
from convloop.stages.prepare import prepare
from convloop.tracking import Tracker

COUNTS = (100_000, 1_000_000)
_FIELDS = ("VmHWM", "RssAnon", "RssFile")
_SAMPLE_S = 0.05


def _stage(word: str, project: Path, image_count: int) -> None:
    params = check({"generate": {"image_count": image_count}})
    {"generate": generate, "prepare": prepare}[word](params, project, cast("Tracker", None))


def _measured(word: str, project: Path, image_count: int) -> dict[str, float]:
    """Run one stage in a process of its own and watch its memory."""
    start_s = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, __file__, word, str(project), str(image_count)], stdout=subprocess.DEVNULL
    )
    peak_mib = dict.fromkeys(_FIELDS, 0.0)
    while child.poll() is None:
        for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in peak_mib:
                peak_mib[name] = max(peak_mib[name], int(value.split()[0]) / 1024)
        time.sleep(_SAMPLE_S)
    if child.returncode:
        raise SystemExit(f"{word} ended with {child.returncode}")
    return {"wall_s": time.perf_counter() - start_s, **{f"{name}_mib": value for name, value in peak_mib.items()}}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _stage(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
        sys.exit()
    figures: dict[str, Any] = {"image_px": 32}
    for image_count in COUNTS:
        project = Path(tempfile.mkdtemp())
        try:
            (project / "data/landed").mkdir(parents=True)
            (project / "data/landed/manifest.json").write_text(manifest_text((), [], {}))
            shutil.copy(Path(__file__).parents[1] / "data/takedown.csv", project / "data")
            for word in ("generate", "prepare"):
                one = _measured(word, project, image_count)
                figures[f"{word}, {image_count:,} images"] = one
                print(
                    f"{word} of {image_count:,} images: {one['wall_s']:.1f} s, own memory {one['RssAnon_mib']:,.0f} MiB, "
                    f"with mapped pixels {one['VmHWM_mib']:,.0f} MiB",
                    flush=True,
                )
        finally:
            shutil.rmtree(project)
    print(json.dumps(figures))
    write_result("prepare", figures)
