"""Decoding in processes: the order stays, what is bad is told, and nothing brings it down."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from convloop.core.images import Batch
from convloop.sources import Encoded, Refused
from convloop.sources.pool import Form, decoded_batches
from tests.conftest import REPOSITORY

from .offered import png

FORM = Form(image_px=8, channel_count=3, fit="crop")


def _decoded(items: Iterator[Encoded | Refused] | list[Encoded | Refused]) -> tuple[list[Batch], list[Refused]]:
    refused: list[Refused] = []
    return list(decoded_batches(items, FORM, refused.append)), refused


def test_images_and_refusals_keep_the_order_of_the_items() -> None:
    items: list[Encoded | Refused] = []
    for index in range(300):
        items.append(Encoded(f"{index}", png(index) if index % 7 else b"broken", index % 3, index % 2, f"{index}"))
        if index % 50 == 0:
            items.append(Refused(f"{index}x", "for a reason"))
    batches, refused = _decoded(items)
    kept = [item for item in items if isinstance(item, Encoded) and item.content != b"broken"]
    assert [name for batch in batches for name in batch.names_N] == [item.name for item in kept]
    assert [label for batch in batches for label in batch.labels_N] == [item.label for item in kept]
    assert [split for batch in batches for split in batch.splits_N] == [item.split for item in kept]
    assert [text for batch in batches for text in _slices(batch)] == [item.slices for item in kept]
    assert [item.name for item in refused] == [
        item.name for item in items if isinstance(item, Refused) or item.content == b"broken"
    ]
    assert {item.reason for item in refused} == {"for a reason", "not an image"}


def _slices(batch: Batch) -> list[str]:
    assert batch.slices_N is not None
    return [str(text) for text in batch.slices_N]


def test_items_are_taken_only_as_they_are_needed() -> None:
    taken, content = 0, png()

    def items() -> Iterator[Encoded]:
        nonlocal taken
        for index in range(100_000):
            taken += 1
            yield Encoded(f"{index}", content, 0)

    batches = decoded_batches(items(), FORM, print)
    next(batches)
    assert taken < 20_000
    batches.close()  # type: ignore[attr-defined]


def test_no_items_are_no_batches() -> None:
    assert _decoded([]) == ([], [])


def test_a_file_that_kills_its_decoder_is_refused_and_the_others_are_not() -> None:
    items: list[Encoded | Refused] = [Encoded(f"{index}", png(index), 0) for index in range(100)]
    items[40] = _Killer("killer", png(), 0)
    batches, refused = _decoded(items)
    assert sum(len(batch.labels_N) for batch in batches) == 99
    assert refused == [Refused("killer", "the decoder crashes on it")]


class _Killer(Encoded):
    """Stands for a file on which a C library crashes: the process dies when it takes the item out of its parcel."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return signal.raise_signal, (signal.SIGKILL,)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="children follow their parent on Linux only")
def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "from convloop.sources import Encoded\n"
        "from convloop.sources.pool import Form, decoded_batches\n"
        "if __name__ == '__main__':\n"
        "    def items():\n"
        "        while True: yield Encoded('a', b'x', 0)\n"
        "    for _ in decoded_batches(items(), Form(8, 3, 'crop'), lambda refused: print('on', flush=True)): pass\n"
    )
    (tmp_path / "endless.py").write_text(program)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "endless.py")], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert parent.stdout is not None
    with parent.stdout:
        parent.stdout.readline()
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
        parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert len(workers) >= 2
    assert alive == []
