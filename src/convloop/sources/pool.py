"""Decode a stream of images on all cores, in its order, with few of them in memory at a time."""

import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np

from convloop.core.card import Fit
from convloop.core.decode import decode
from convloop.core.images import Batch
from convloop.core.modes import MODES
from convloop.processes import end_with_parent
from convloop.sources import Encoded, Refused

_CHUNK_IMAGE_COUNT = 64
_CHUNK_BYTES = 4 * 2**20  # encoded or decoded, whichever is more
_ITEM_BYTES = 4096  # at least: names and the objects of Python count as well
_AHEAD_BYTES = 64 * 2**20  # so that workers have work while a shard is hashed and written

Chunk = list[Encoded | Refused]


class Form(NamedTuple):
    """What every image becomes; the words of core.decode."""

    image_px: int
    channel_count: int
    fit: Fit


Decoded = tuple[Batch | None, list[Refused]]


def decoded_batches(
    items: Iterable[Encoded | Refused], form: Form, refuse: Callable[[Refused], None]
) -> Iterator[Batch]:
    """Decode `items` in processes of their own; what cannot be used goes to `refuse`, in the order of the items.

    Processes, since Pillow holds the interpreter too long for threads, and since a file that crashes a decoder then
    ends a process and not the stage.
    """
    workers = _Workers(form)
    ahead: deque[tuple[Chunk, Future[Decoded], int]] = deque()
    ahead_bytes = 0
    try:
        for chunk, chunk_bytes in _chunks(items, form):
            ahead.append((chunk, workers.submit(chunk), chunk_bytes))
            ahead_bytes += chunk_bytes
            while ahead_bytes > max(_AHEAD_BYTES, 2 * workers.count * _CHUNK_BYTES):
                oldest, future, oldest_bytes = ahead.popleft()
                ahead_bytes -= oldest_bytes
                yield from _passed_on(workers.finish(oldest, future), refuse)
        while ahead:
            oldest, future, _ = ahead.popleft()
            yield from _passed_on(workers.finish(oldest, future), refuse)
    finally:
        workers.stop()


def _passed_on(results: Iterable[Decoded], refuse: Callable[[Refused], None]) -> Iterator[Batch]:
    for batch, refused in results:
        for item in refused:
            refuse(item)
        if batch is not None:
            yield batch


def _chunks(items: Iterable[Encoded | Refused], form: Form) -> Iterator[tuple[Chunk, int]]:
    item_bytes = max(_ITEM_BYTES, form.image_px**2 * form.channel_count)
    chunk: Chunk = []
    chunk_bytes = 0
    for item in items:
        chunk.append(item)
        content_bytes = len(item.content) if isinstance(item, Encoded) and isinstance(item.content, bytes) else 0
        chunk_bytes += max(content_bytes, item_bytes)
        if len(chunk) >= _CHUNK_IMAGE_COUNT or chunk_bytes >= _CHUNK_BYTES:
            yield chunk, chunk_bytes
            chunk, chunk_bytes = [], 0
    if chunk:
        yield chunk, chunk_bytes


class _Workers:
    """Processes that decode, started anew when one of them dies."""

    def __init__(self, form: Form) -> None:
        self.count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._form = form
        self._start()

    def _start(self) -> None:
        # spawn: a fork of a process that has threads, as one with torch or pyarrow has, can stop for good.
        self._pool = ProcessPoolExecutor(
            self.count, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
        )

    def submit(self, chunk: Chunk) -> "Future[Decoded]":
        try:
            return self._pool.submit(_decode_chunk, chunk, self._form)
        except BrokenProcessPool:
            self.stop()
            self._start()
            return self._pool.submit(_decode_chunk, chunk, self._form)

    def finish(self, chunk: Chunk, future: "Future[Decoded]") -> Iterator[Decoded]:
        """Wait for a chunk; where a process died, find the item that killed it by halving."""
        try:
            yield future.result()
        except BrokenProcessPool:
            # Another chunk may have been the killer: this one gets a second chance before it is halved.
            yield from self._again(chunk)

    def _again(self, chunk: Chunk) -> Iterator[Decoded]:
        try:
            yield self.submit(chunk).result()
        except BrokenProcessPool:
            if len(chunk) == 1:
                yield None, [Refused(chunk[0].name, "the decoder crashes on it")]
                return
            half = len(chunk) // 2
            yield from self._again(chunk[:half])
            yield from self._again(chunk[half:])

    def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _begin(parent_pid: int) -> None:
    """Set up a worker: it ends with its parent, leaves Ctrl-C to it, and keeps quiet about odd headers."""
    end_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff writes what it finds odd straight to stderr


def _decode_chunk(chunk: Chunk, form: Form) -> Decoded:
    taken: list[Encoded] = []
    refused: list[Refused] = []
    images_NHWC = np.empty((len(chunk), form.image_px, form.image_px, form.channel_count), np.uint8)
    originals = []
    for item in chunk:
        if isinstance(item, Refused):
            refused.append(item)
            continue
        try:
            pixels_HWC, original = decode(
                item.content, image_px=form.image_px, channel_count=form.channel_count, fit=form.fit
            )
        except ValueError as error:
            refused.append(Refused(item.name, str(error)))
            continue
        images_NHWC[len(taken)] = pixels_HWC
        taken.append(item)
        originals.append(original)
    if not taken:
        return None, refused
    return Batch(
        images_NHWC[: len(taken)],
        np.array([item.label for item in taken], np.int64),
        np.array([item.split for item in taken], np.int8),
        np.array([original.size_px for original in originals], np.int32),
        np.array([item.name for item in taken]),
        np.array([item.slices for item in taken]),
        np.array([MODES.index(original.mode) for original in originals], np.uint8),
    ), refused
