"""What the training process asks of the C library."""

import platform
import subprocess
import sys

import pytest

_KEPT = """
import sys
import psutil, torch
from convloop.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
before = psutil.Process().memory_info().rss
torch.ones(25_000_000)
print(psutil.Process().memory_info().rss - before)
"""


def _kept_bytes(word: str) -> int:
    """Fill 100 MB, free them, and tell what of them the process still holds."""
    ended = subprocess.run([sys.executable, "-c", _KEPT, word], capture_output=True, text=True, check=True)
    return int(ended.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, whose memory this is about")
def test_memory_that_a_step_frees_serves_the_next_one() -> None:
    assert _kept_bytes("give back") < 50_000_000 < _kept_bytes("keep")
