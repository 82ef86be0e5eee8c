"""Digests of files: SHA-256 for our own manifests, and the md5s that DVC would give, taken at the start of a stage.

DVC hashes a stage's inputs only after its command has ended, so what arrived in between would be recorded as consumed.
"""

import hashlib
import json
from pathlib import Path

# What .dvcignore keeps out of every folder of ours.
_IGNORED_SUFFIXES = (".tmp", ".part", ".pyc")


def file_sha256(file: Path) -> str:
    """Hash what is in a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def dvc_md5(path: Path) -> str:
    """Hash a file or folder to the md5 that DVC writes into dvc.lock for it (`<32 hex>.dir` for a folder)."""
    if path.is_file():
        return _file_md5(path)
    entries = [
        {"md5": _file_md5(file), "relpath": file.relative_to(path).as_posix()}
        for file in path.rglob("*")
        if file.is_file() and file.suffix not in _IGNORED_SUFFIXES
    ]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _file_md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
