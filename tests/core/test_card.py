"""What a package says of itself."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from convloop.core.card import CARD_FILE, ModelCard, read_card, read_facts
from convloop.errors import DataError

CARD = ModelCard(("cat", "Ölvogel"), 8, 1, "cnn3", 4, (100.5,), (50.25,), "ab" * 32)


def _written(folder: Path, text: str) -> Path:
    (folder / CARD_FILE).parent.mkdir()
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    return folder


def _message(package: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_card(package)
    return str(caught.value)


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_card(_written(tmp_path, json.dumps(asdict(CARD), ensure_ascii=False))) == CARD


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    assert _message(tmp_path) == (
        f"{tmp_path / CARD_FILE} is missing: there is no packaged model. Make it: dvc repro train"
    )


@pytest.mark.parametrize("text", ["", "{", '{"classes": ["cat"]}', '{"other": 3}'])
def test_a_damaged_card_is_named(tmp_path: Path, text: str) -> None:
    message = _message(_written(tmp_path, text))
    assert message.startswith(f"{tmp_path / CARD_FILE} is damaged (")
    assert message.endswith("). Make it again: dvc repro --force train")


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_a_card_that_holds_no_facts_is_damaged(tmp_path: Path, text: str) -> None:
    message = _message(_written(tmp_path, text))
    assert message.startswith(f"{tmp_path / CARD_FILE} is damaged (")


@pytest.mark.parametrize(("text", "why"), [("{", "Expecting property name"), ("[]", "no JSON object")])
def test_damaged_facts_name_the_stage_to_repeat(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "record.json").write_text(text)

    with pytest.raises(DataError) as caught:
        read_facts(tmp_path / "record.json", "train")

    assert str(caught.value).startswith(f"{tmp_path}/record.json is damaged ({why}")
    assert str(caught.value).endswith("). Make it again: dvc repro --force train")


def test_missing_facts_name_the_stage_to_repeat(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_facts(tmp_path / "run.json", "train")

    assert str(caught.value) == f"{tmp_path}/run.json is missing. Make it: dvc repro --force train"
