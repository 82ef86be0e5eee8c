"""Fetch a source that lies behind a URL, of any protocol that fsspec knows, so that every source reads local files."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from convloop.errors import DataError

if TYPE_CHECKING:
    from convloop.config import GenerateParams

_WEB = ("http", "https")
_DRAWN = ("synthetic", "noise")  # these read nothing


@contextmanager
def local_copy(settings: "GenerateParams", place: Path) -> Iterator["GenerateParams"]:
    """Yield settings whose path is local, with a copy at `place` that lasts as long as the block.

    A URL that ends with / is a folder, and so is one that the other side calls so; over http only the slash tells.

    Raises:
        DataError: the protocol is unknown or its package is missing, or nothing can be fetched.
    """
    url = settings.path or ""
    if settings.source in _DRAWN or "://" not in url:
        yield settings
        return
    shutil.rmtree(place, ignore_errors=True)
    try:
        yield settings.model_copy(update={"path": str(_fetched(url, place))})
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _fetched(url: str, place: Path) -> Path:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        protocol = url.split("://")[0]
        is_folder = url.endswith("/") or (protocol not in _WEB and filesystem.isdir(path))
        if not is_folder:
            file = place / (PurePosixPath(path.split("?")[0]).name or "source")
            place.mkdir(parents=True)
            filesystem.get_file(path, str(file))
            return file
        above = path.rstrip("/") + "/"
        for source in sorted(filesystem.find(path)):
            parts = PurePosixPath(source.removeprefix(above)).parts
            if not source.startswith(above) or ".." in parts or not parts:
                continue  # a name that would leave the place; over http, a link that leads elsewhere
            target = place.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(source, str(target))
    except ImportError as error:
        raise DataError(
            f'params.yaml: generate.path is {url}, which needs a package: {error}. Install it, as in pip install "convloop[s3]".'
        ) from error
    except Exception as error:  # each protocol raises errors of its own
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(
            f"params.yaml: generate.path is {url}, which cannot be fetched: {reason.rstrip('.')}. Check the URL and your access."
        ) from error
    if not place.is_dir():
        raise DataError(f"params.yaml: generate.path is {url}, where nothing lies. Check the URL and your access.")
    return place
