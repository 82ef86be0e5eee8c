"""Digests, against those that DVC itself writes."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from convloop.core.digest import dvc_md5

from ..conftest import REPOSITORY

NAMES = ("b.bin", "a/b.bin", "a.bin", "a-b/c.bin", "a b.bin", "Ä/ö.bin", "a/c/empty.bin", ".hidden", "a/B.bin")
IGNORED = ("x.tmp", "a/y.part", "a/__pycache__/z.pyc")


def _filled(folder: Path) -> Path:
    for name in (*NAMES, *IGNORED):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("" if "empty" in name else f"content of {name}\r\n")
    return folder


@pytest.mark.system
def test_digests_are_those_of_dvc(tmp_path: Path) -> None:
    folder = _filled(tmp_path / "data")
    file = tmp_path / "single.bin"
    file.write_bytes(bytes(range(256)) * 10_000)
    shutil.copy(REPOSITORY / ".dvcignore", tmp_path)
    for words in (("init", "-q", "--no-scm"), ("add", "-q", "data", "single.bin")):
        subprocess.run(["dvc", *words], cwd=tmp_path, check=True)

    def recorded(name: str) -> str:
        return str(YAML(typ="safe").load(tmp_path / f"{name}.dvc")["outs"][0]["md5"])

    assert (dvc_md5(folder), dvc_md5(file)) == (recorded("data"), recorded("single.bin"))


def test_a_file_has_the_md5_of_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"a\r\nb\n")
    assert dvc_md5(file) == hashlib.md5(b"a\r\nb\n").hexdigest()


@pytest.mark.parametrize("name", IGNORED)
def test_what_dvcignore_leaves_out_changes_no_digest(tmp_path: Path, name: str) -> None:
    folder = _filled(tmp_path / "data")
    before = dvc_md5(folder)
    (folder / name).write_text("other")
    assert dvc_md5(folder) == before


def test_other_bytes_change_the_digest_of_their_folder(tmp_path: Path) -> None:
    folder = _filled(tmp_path / "data")
    before = dvc_md5(folder)
    (folder / NAMES[1]).write_text("other")
    assert dvc_md5(folder) != before


def test_another_name_changes_the_digest_of_its_folder(tmp_path: Path) -> None:
    folder = _filled(tmp_path / "data")
    before = dvc_md5(folder)
    (folder / "b.bin").rename(folder / "renamed.bin")
    assert dvc_md5(folder) != before


def test_the_place_of_a_folder_does_not_matter(tmp_path: Path) -> None:
    assert dvc_md5(_filled(tmp_path / "one")) == dvc_md5(_filled(tmp_path / "elsewhere/two"))
