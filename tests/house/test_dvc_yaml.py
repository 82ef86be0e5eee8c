"""dvc.yaml says exactly what the code does."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from convloop.config import Params
from convloop.pipeline import STAGES
from tests.house.closure import PARAMS, PROJECT, dvc_stage


def _dvc_yaml() -> dict[str, Any]:
    tree: dict[str, Any] = YAML(typ="safe", pure=True).load((PROJECT / "dvc.yaml").read_text())
    return tree


def test_dvc_yaml_has_the_five_stages_in_their_order() -> None:
    assert list(_dvc_yaml()["stages"]) == ["generate", "prepare", "train", "evaluate", "register"] == list(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_stage_in_dvc_yaml_lists_exactly_its_data_its_code_and_its_outputs(name: str) -> None:
    assert _dvc_yaml()["stages"][name] == dvc_stage(STAGES[name]), "write it anew: python -m tests.house.closure"


def test_every_section_of_params_but_tracking_and_tune_belongs_to_one_stage() -> None:
    sections = {field.alias or name for name, field in Params.model_fields.items()}

    assert sections - {"tracking", "tune"} == {section for names in PARAMS.values() for section in names}


def test_every_file_that_a_stage_reads_is_written_by_an_earlier_one_or_comes_with_git() -> None:
    written = {"data/landed/manifest.json", "data/takedown.csv"}
    for stage in STAGES.values():
        assert set(stage.reads) <= written
        written |= set(stage.writes)


def test_no_param_is_ever_put_into_a_command() -> None:
    assert "${" not in (PROJECT / "dvc.yaml").read_text()


def test_stage_code_leaves_out_what_only_records() -> None:
    names = ("tracking", "runs", "cli", "commands", "config", "params_check", "params_wording")
    recording = {f"src/convloop/{name}.py" for name in names}

    for stage in STAGES.values():
        assert not recording & {Path(path).as_posix() for path in dvc_stage(stage)["deps"]}  # type: ignore[attr-defined]
