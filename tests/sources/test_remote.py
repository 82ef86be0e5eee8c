"""Sources behind URLs, over real HTTP on this machine."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from convloop.config import GenerateParams
from convloop.errors import DataError
from convloop.sources.folder import read_folder
from convloop.sources.remote import local_copy

from .offered import encoded, put


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _settings(path: str) -> GenerateParams:
    return GenerateParams(source="folder", path=path)


def test_a_local_path_stays_where_it_is(tmp_path: Path) -> None:
    settings = _settings("data/own")
    with local_copy(settings, tmp_path / "fetched") as local:
        assert local is settings
    assert not (tmp_path / "fetched").exists()


def test_a_source_that_reads_nothing_fetches_nothing(tmp_path: Path) -> None:
    settings = GenerateParams(source="synthetic", path="https://host.invalid/x")
    with local_copy(settings, tmp_path / "place") as local:
        assert local == settings


def test_a_file_is_fetched_over_http_and_removed_afterwards(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    (folder / "a b.zip").write_bytes(b"content")
    with local_copy(_settings(f"{url}/a%20b.zip"), tmp_path / "fetched") as local:
        assert Path(str(local.path)).read_bytes() == b"content"
    assert not (tmp_path / "fetched").exists()


def test_a_folder_is_fetched_over_http(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    put(folder, "set/cat/a.png", "set/dog/b.png")
    with local_copy(_settings(f"{url}/set/"), tmp_path / "fetched") as local:
        items = encoded(read_folder(local))
        assert [(item.name, item.label) for item in items] == [("cat/a.png", 0), ("dog/b.png", 1)]


def test_a_folder_of_any_other_protocol_is_fetched(tmp_path: Path) -> None:
    put(tmp_path, "set/cat/a.png", "set/dog/b.png")
    with local_copy(_settings(f"file://{tmp_path}/set"), tmp_path / "fetched") as local:
        assert len(encoded(read_folder(local))) == 2


def _message(url: str, tmp_path: Path) -> str:
    with pytest.raises(DataError) as caught, local_copy(_settings(url), tmp_path / "fetched"):
        pass
    return str(caught.value)


def test_a_url_of_nothing_is_named(served: tuple[Path, str], tmp_path: Path) -> None:
    url = f"{served[1]}/none.zip"
    assert _message(url, tmp_path) == (
        f"params.yaml: generate.path is {url}, which cannot be fetched: {url}. Check the URL and your access."
    )


def test_an_unknown_protocol_is_named(tmp_path: Path) -> None:
    assert _message("gopher://x/y", tmp_path) == (
        "params.yaml: generate.path is gopher://x/y, which cannot be fetched: Protocol not known: gopher. "
        "Check the URL and your access."
    )
