"""The presets are params that convloop takes, and the page that names them is true."""

import re
from pathlib import Path

import pytest

from convloop.params_check import check
from convloop.params_file import read_tree
from tests.conftest import REPOSITORY

_PRESETS = sorted((REPOSITORY / "presets").glob("*.yaml"))


@pytest.mark.parametrize("file", _PRESETS, ids=lambda file: str(file.stem))
def test_a_preset_can_be_written_into_any_params(file: Path) -> None:
    tree = read_tree(file)
    assert set(tree) == {"prepare", "train"}
    assert check(tree).train.curve == "one_cycle"


def test_the_page_of_recipes_lists_every_preset() -> None:
    page = (REPOSITORY / "docs/recipes.md").read_text(encoding="utf-8").partition("## Presets")[2]
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) != []
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == [file.stem for file in _PRESETS]
