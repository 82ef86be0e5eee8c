"""How fast folders are decoded on all cores: convloop beside bare loops of Pillow, OpenCV and simplejpeg, in one run.

Each bare loop reads files in as many processes as there are cores, decodes them whole and does nothing else, or also
resizes them to the side that convloop makes; convloop walks the folder, refuses, crops, resizes, puts in order and
writes hashed shards. Needs: pip install opencv-python-headless. Own images: python benchmarks/decode.py FOLDER [SIDE]
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from results_file import write_result

from convloop.core.shards import write_shards
from convloop.sources.folder import read_folder
from convloop.sources.pool import Form, decoded_batches

REPEATS, CHUNK, OUR_PASSES = 5, 64, 6
SIDE_PX = 64
DRAWN = {"drawn 160x200": (4000, 160, 200), "drawn 480x640": (1000, 480, 640)}


def pillow(content: str, side_px: int) -> None:
    with Image.open(content) as image:
        pixels = image.convert("RGB")
    if side_px:
        pixels = pixels.resize((side_px, side_px), Image.Resampling.BOX)
    np.asarray(pixels)


def opencv(file: str, side_px: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    pixels = cv2.imread(file, cv2.IMREAD_COLOR)
    if side_px:
        cv2.resize(pixels, (side_px, side_px), interpolation=cv2.INTER_AREA)


def jpeg_library(file: str, side_px: int) -> None:
    try:
        pixels = simplejpeg.decode_jpeg(Path(file).read_bytes(), "RGB")
    except ValueError:  # a subsampling that it does not know
        pillow(file, side_px)
        return
    if side_px:
        np.asarray(Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.BOX))


def loop(decode: Callable[[str, int], None], files: list[str], side_px: int) -> None:
    for file in files:
        decode(file, side_px)


def bare_rate(pool: ProcessPoolExecutor, decode: Callable[[str, int], None], files: list[str], side_px: int) -> float:
    start_s = time.perf_counter()
    waiting = [pool.submit(loop, decode, files[at : at + CHUNK], side_px) for at in range(0, len(files), CHUNK)]
    for future in waiting:
        future.result()
    return len(files) / (time.perf_counter() - start_s)


def our_rate(folder: Path, file_count: int, side_px: int) -> float:
    """Go over the folder several times, as if it were larger: the start of the workers counts, once."""
    from convloop.config import GenerateParams  # here, since each worker imports what stands at the top

    with tempfile.TemporaryDirectory() as temporary:
        sources = [read_folder(GenerateParams(source="folder", path=str(folder))) for _ in range(OUR_PASSES)]
        items = chain.from_iterable(source.items or () for source in sources)
        batches = decoded_batches(items, Form(side_px, 3, "crop"), print)
        start_s = time.perf_counter()
        count = write_shards(Path(temporary), batches, sources[0].classes, {})
        seconds = time.perf_counter() - start_s
    assert count == file_count * OUR_PASSES
    return count / seconds


def draw(folder: Path, count: int, height_px: int, width_px: int) -> Path:
    """Write JPEGs with the coarse and fine detail of photographs."""
    rng = np.random.default_rng(7)
    (folder / "one").mkdir(parents=True)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((width_px, height_px))
        pixels = np.asarray(coarse).astype(np.int16) + rng.integers(-12, 13, (height_px, width_px, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"one/{index:05d}.jpg", quality=88)
    return folder


def measure(folder: Path, side_px: int) -> dict[str, Any]:
    files = sorted(str(file) for file in folder.rglob("*") if file.is_file())
    rates: dict[str, list[float]] = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for decode in (pillow, opencv, jpeg_library):
            bare_rate(pool, decode, files[:256], side_px)
        for _ in range(REPEATS):  # interleaved, since a shared machine changes its speed
            for decode in (pillow, opencv, jpeg_library):
                rates.setdefault(f"{decode.__name__}, decode", []).append(bare_rate(pool, decode, files, 0))
                rates.setdefault(f"{decode.__name__}, decode and resize", []).append(
                    bare_rate(pool, decode, files, side_px)
                )
            rates.setdefault("convloop, all", []).append(our_rate(folder, len(files), side_px))
    figures: dict[str, Any] = {name: median(values) for name, values in rates.items()}
    for kind in ("decode", "decode and resize"):
        best = [
            max(turn)
            for turn in zip(*(values for name, values in rates.items() if name.endswith(f", {kind}")), strict=True)
        ]
        figures[f"share of the best bare {kind}"] = median(
            ours / other for ours, other in zip(rates["convloop, all"], best, strict=True)
        )
    for name, figure in figures.items():
        print(f"  {name:<44} {figure:10,.2f}")
    return {"image_count": len(files), "side_px": side_px, **figures}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        side_px = int(sys.argv[2]) if len(sys.argv) > 2 else SIDE_PX
        print(f"{sys.argv[1]} to {side_px} px, images/s on {os.cpu_count()} cores, median of {REPEATS}")
        write_result(f"decode-{Path(sys.argv[1]).name}", measure(Path(sys.argv[1]), side_px))
        sys.exit()
    results = {}
    with tempfile.TemporaryDirectory() as drawn:
        for name, (count, height_px, width_px) in DRAWN.items():
            print(f"{name} JPEG to {SIDE_PX} px, images/s on {os.cpu_count()} cores, median of {REPEATS}")
            results[name] = measure(draw(Path(drawn) / name.split()[1], count, height_px, width_px), SIDE_PX)
    write_result("decode", results)
