"""Let the C library keep freed memory, since handing it back and asking for it again costs more than a small net."""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h


def keep_freed_memory() -> None:
    """Keep what the tensors of a step leave for those of the next one.

    glibc gives large blocks back to the kernel at once, which then clears every page anew at each step. Only for a
    process that trains and ends: what it once took it holds.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, byte_count in ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20)):
        libc.mallopt(option, byte_count)
