"""Claims: what was taken out of the inbox and is not yet in the data.

A claim is a folder in work/claims. It writes down what it takes, with labels and sources, before it moves the first
file; so a kill in between loses no label, and what arrives later waits for the next claim.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from convloop.core.folders import write_text
from convloop.errors import OutputError
from convloop.inbox import INCOMING, SETTLE_S, UNLABELLED, Inbox, Item, Look, find_growing, is_ours, read_inbox

CLAIMS = "work/claims"
_DONE = "work/claims.done"


def claim_inbox(project: Path, classes: tuple[str, ...], landed_names: Collection[str]) -> tuple[str, ...]:
    """Move aside what lies in the inbox and is whole; say what was left there, and why.

    Whole is what was last changed SETTLE_S ago by the clock of its own file system, or else what two looks find the
    same that lie as far apart by a clock which nobody sets: so neither a wrong clock nor a wrong date holds a file up.

    Raises:
        OutputError: a file cannot be moved.
    """
    finish_claims(project)
    growing: dict[str, Look] = find_growing(project / INCOMING, _file_system_now_s(project), {})
    if any(map(is_ours, growing)):
        time.sleep(SETTLE_S)
        growing = find_growing(project / INCOMING, _file_system_now_s(project), growing)
    inbox = read_inbox(project / INCOMING, classes, landed_names, growing)
    if inbox.items or inbox.tables:
        _write_claim(project / CLAIMS / datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f"), inbox)
        finish_claims(project)
    return inbox.waiting


def _file_system_now_s(project: Path) -> float:
    """Ask the file system of the inbox, where work lies as well, by which time it dates a file written now."""
    try:
        (project / "work").mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=project / "work") as opened:
            opened.write(b"now")
            opened.flush()
            return os.fstat(opened.fileno()).st_mtime
    except OSError as error:
        raise OutputError(
            f"{project / 'work'} cannot be written: {error.strerror}. Make it writable, then: convloop ingest"
        ) from error


def finish_claims(project: Path) -> None:
    """Move what claims wrote down and have not moved yet, and delete what is left of settled ones."""
    shutil.rmtree(project / _DONE, ignore_errors=True)
    for claim in (project / CLAIMS).glob("*"):
        (claim / "plan.json.tmp").unlink(missing_ok=True)
        if not (claim / "plan.json").is_file():
            claim.rmdir()  # it wrote nothing down, so it moved nothing
            continue
        items, tables = read_claim(claim)
        kept = {UNLABELLED, *(item.label for item in items if item.label)}
        for file in [*(item.file for item in items), *tables]:
            source, target = project / INCOMING / file, claim / "files" / file
            if not file or target.exists() or source.is_symlink() or not source.is_file():
                continue
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                source.rename(target)
            except OSError as error:
                raise OutputError(
                    f"{source} cannot be moved to {CLAIMS}: {error.strerror}. "
                    f"Make {INCOMING} and work writable, on one file system, then: convloop ingest"
                ) from error
            _remove_empty(source.parent, project / INCOMING, kept)


def read_claim(claim: Path) -> tuple[list[Item], list[str]]:
    """Read what a claim took: images, and the tables that named them."""
    plan = json.loads((claim / "plan.json").read_text(encoding="utf-8"))
    return [Item(*item) for item in plan["items"]], plan["tables"]


def settle_claim(project: Path, claim: Path) -> None:
    """Delete a claim whose images are safe: one rename undoes it, since deleting many files can be cut off halfway."""
    (project / _DONE).mkdir(parents=True, exist_ok=True)
    claim.rename(project / _DONE / claim.name)
    shutil.rmtree(project / _DONE)


def claimed_utc(claim: Path) -> str:
    """Give the time at which a claim was made, in ISO 8601."""
    return datetime.strptime(claim.name, "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC).isoformat(timespec="seconds")


def _write_claim(claim: Path, inbox: Inbox) -> None:
    write_text(claim / "plan.json", json.dumps({"items": inbox.items, "tables": inbox.tables}))


def _remove_empty(folder: Path, inbox: Path, kept: set[str]) -> None:
    """Take emptied deliveries away; a class folder at the top stays for what comes next."""
    while folder != inbox and not (folder.parent == inbox and folder.name in kept):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
