"""Sources behind s3://, read from a real server by the command that a user types, with credentials from the environment."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convloop.core.images import open_images
from tests.conftest import Convloop
from tests.s3_server import BUCKET, client, s3_served

# Two classes of pictures of one colour, so that every name tells its pixels.
COLOURS = {"cat/a.png": 10, "cat/deep/b.png": 20, "dog/c.png": 30, "dog/d d+é.png": 40}


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """Variables of a server that holds the same pictures as folder, table and archive."""
    with s3_served() as variables:
        archive = io.BytesIO()
        table = "path,label,split\n"
        with tarfile.open(fileobj=archive, mode="w:gz") as packed:
            for name, grey in COLOURS.items():
                content = png(grey)
                _put(variables, f"folder/{name}", content)
                _put(variables, f"csv/{name}", content)
                info = tarfile.TarInfo(name)
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))
                table += f"{name},{name.split('/')[0]},\n"
        _put(variables, "csv/labels.csv", table.encode())
        _put(variables, "archive/set.tar.gz", archive.getvalue())
        yield variables


def png(grey: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 16), (grey, grey, grey)).save(content, "PNG")
    return content.getvalue()


def _put(variables: dict[str, str], name: str, content: bytes) -> None:
    client(variables).put_object(Bucket=BUCKET, Key=name, Body=content)


@pytest.mark.parametrize(("source", "path"), [("folder", "folder"), ("csv", "csv/"), ("archive", "archive/set.tar.gz")])
def test_source_is_read_from_s3(project: Path, convloop: Convloop, s3: dict[str, str], source: str, path: str) -> None:
    (project / "params.yaml").write_text(
        f"generate: {{source: {source}, path: 's3://{BUCKET}/{path}', image_px: 16}}\n"
    )
    answer = convloop("generate", **s3)
    assert (answer.returncode, answer.stderr) == (0, "")
    images = open_images(project / "data/raw")
    greys = {
        str(name): int(image[0, 0, 0])
        for name, image in zip(images.names_N, images.take(np.arange(len(images))), strict=True)
    }
    assert (greys, images.classes) == (COLOURS, ("cat", "dog"))
    assert not (project / "work/fetched").exists()


@pytest.mark.parametrize(
    ("path", "without", "reason"),
    [
        ("folder", "AWS_ACCESS_KEY_ID", "Unable to locate credentials"),
        ("nothing.zip", "", "The specified key does not exist"),
    ],
)
def test_what_s3_does_not_give_is_named(
    project: Path, convloop: Convloop, s3: dict[str, str], path: str, without: str, reason: str
) -> None:
    url = f"s3://{BUCKET}/{path}"
    (project / "params.yaml").write_text(f"generate: {{source: folder, path: '{url}', image_px: 16}}\n")
    variables = {name: "" if name == without else value for name, value in s3.items()}
    answer = convloop("generate", **variables, HOME=str(project))
    assert (answer.returncode, answer.stderr) == (
        3,
        f"convloop: params.yaml: generate.path is {url}, which cannot be fetched: {reason}. Check the URL and your access.\n",
    )
