"""The copies that DVC keeps, in its cache and on its remotes, of files that hold pictures taken down.

An object bears the md5 of a file. What the history of git still calls for and holds none of these pictures stays.
"""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convloop.core.takedown_list import holds

_FACTS, _PIXELS = ".facts.npz", ".images.npy"


class Deleted(NamedTuple):
    """How many objects went from how many places; `unreached` names each place that could not be cleared, and why."""

    object_count: int
    remotes: tuple[str, ...]
    unreached: tuple[str, ...]


def delete_objects(project: Path, md5s: Iterable[str], contents: frozenset[bytes]) -> Deleted:
    """Delete the objects `md5s`, and of all that data/raw ever was, the shards that hold pictures taken down.

    Args:
        contents: SHA-256 of the pixels of the pictures taken down.
    """
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo
    from dvc_data.hashfile.db import get_index

    object_count, cleared, unreached = 0, [], []
    judged: dict[str, bool] = {}
    try:
        repo = Repo(str(project))
    except NotDvcRepoError:
        return Deleted(0, (), ())
    with repo:
        for remote in (None, *sorted(repo.config["remote"])):
            try:
                store = repo.cache.local
                if remote:
                    store = repo.cloud.get_remote_odb(remote, "takedown")
                    _demand_folder(repo.cloud.get_remote(remote))
                for md5 in [*md5s, *_holding(store, contents, judged)]:
                    if store.exists(md5):
                        store.delete(md5)
                        object_count += 1
                if remote:
                    get_index(store).clear()  # what DVC remembers of it, which spares it from asking
                    cleared.append(remote)
            except Exception as error:  # each protocol raises errors of its own
                said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                place = f"remote {remote} ({repo.config['remote'][remote]['url']})" if remote else "DVC's cache"
                unreached.append(f"{place}: {said.rstrip('.')}")
    return Deleted(object_count, tuple(cleared), tuple(unreached))


def _demand_folder(remote: Any) -> None:
    """Take a folder that is not there for a disk that is not mounted: every object would count as gone."""
    if remote.fs.protocol == "local" and not remote.fs.exists(remote.path):
        raise FileNotFoundError("no such folder (mount it, or make it where nothing was ever pushed)")


def _holding(store: Any, contents: frozenset[bytes], judged: dict[str, bool]) -> list[str]:
    """Look through all folders that a store knows for shards that hold some; of each, pixels come before facts.

    Args:
        store: an object store of DVC.
        judged: what is known of facts by their md5; they are the same in every store.
    """
    found: list[str] = []
    for folder_md5 in [md5 for md5 in store.all() if md5.endswith(".dir")]:
        md5_of = {entry["relpath"]: entry["md5"] for entry in json.loads(_read(store, folder_md5))}
        for name, md5 in md5_of.items():
            if not name.endswith(_FACTS):
                continue
            if md5 not in judged and store.exists(md5):
                with np.load(io.BytesIO(_read(store, md5))) as facts:
                    judged[md5] = bool(holds(contents, facts["content"]).any())
            if judged.get(md5):
                found += [md5_of[name.replace(_FACTS, _PIXELS)], md5]
    return found


def _read(store: Any, md5: str) -> bytes:
    with store.fs.open(store.oid_to_path(md5), "rb") as opened:
        content: bytes = opened.read()
    return content
