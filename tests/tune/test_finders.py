"""tune lr, tune batch and train --profile: what they answer, write and leave alone."""

import json
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from convloop.cli import main
from convloop.config import Params
from convloop.core.digest import dvc_md5
from convloop.errors import ParamsError
from convloop.params_check import load
from convloop.tune.answer import apply_patch
from convloop.tune.batch import Measured, smallest_near_best, tune_batch
from convloop.tune.lr import tune_lr
from tests.conftest import REPOSITORY, Convloop


def _pipeline(project: Path) -> list[str]:
    return [dvc_md5(project / name) for name in ("models", "reports", "data", "mlruns", "params.yaml")]


def test_lr_is_found_written_and_drawn(trained: Path, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    before = _pipeline(trained)

    tune_lr(trained, params, apply=False)

    patch = YAML(typ="safe").load(trained / "work/tune/lr/patch.yaml")
    lr = patch["train"]["lr"]
    assert patch == {"train": {"lr": lr}}
    assert 1e-5 < lr < 0.05
    assert (trained / "work/tune/lr/range.png").read_bytes().startswith(b"\x89PNG")
    assert re.fullmatch(
        r"\d+ steps of 32 images, rate 1e-06 to \S+: the loss falls fastest at (\S+), and is least at \S+, "
        r"of which a tenth is \S+\.\n"
        r"Look at it: work/tune/lr/range\.png\n"
        r"work/tune/lr/patch\.yaml: train\.lr=\1\n"
        r"Try it: dvc exp run -S train\.lr=\1\n"
        r"Write it into params\.yaml: convloop tune apply work/tune/lr/patch\.yaml\n",
        capsys.readouterr().out,
    )
    assert _pipeline(trained) == before
    assert not (trained / "work/checkpoints").exists()


def test_batch_sizes_are_measured_and_the_answer_applied(
    trained: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    tune_batch(trained, params, apply=True, least_s=0.05)

    said = capsys.readouterr().out
    size = load(trained / "params.yaml").train.batch_size
    assert size in (16, 32, 64, 128, 256)
    assert said.endswith(f"params.yaml now has train.batch_size={size}. Train with it: dvc repro\n")
    assert said.startswith("batch size  images/s  memory MB\n        16  ")


def test_the_smallest_batch_within_five_percent_of_the_best_is_chosen() -> None:
    table = [Measured(16, 700, 1), Measured(32, 960, 1), Measured(64, 1000, 1), Measured(128, 990, 1)]

    assert smallest_near_best(table).batch_size == 32


def test_profile_traces_a_few_steps_and_trains_nothing(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = _pipeline(trained)

    assert main(["train", "--profile", "--set", "train.batch_size=16"]) == 0

    assert "aten::" in capfd.readouterr().out
    assert json.loads((trained / "work/profile/trace.json").read_text())["traceEvents"]
    assert _pipeline(trained) == before
    assert not (trained / "work/checkpoints").exists()


def test_a_patch_changes_its_keys_and_nothing_else(tmp_path: Path) -> None:
    text = (REPOSITORY / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    (tmp_path / "patch.yaml").write_text("train: {lr: 0.0034, batch_size: 1024, net: {pool: null}}\n")

    apply_patch(tmp_path, tmp_path / "patch.yaml")

    changed = [
        (old, new)
        for old, new in zip(
            text.replace("\n  epochs: 8", "\n    pool: null\n  epochs: 8").splitlines(),
            (tmp_path / "params.yaml").read_text().splitlines(),
            strict=True,
        )
        if old != new
    ]
    assert changed == [
        (
            "  batch_size: 64               # all devices together",
            "  batch_size: 1024             # all devices together",
        ),
        ("  lr: 0.001", "  lr: 0.0034"),
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "train:\n  epochs: 2  # few\n  optimizer: sgd\n  seed: 7  # any\n\n# the gate\nregister:\n  model_name: a\n",
            "train:\n  epochs: 2  # few\n  lr: 0.1\n  optimizer: sgd\n  augment:\n    flip: true\n    shift_px: 2\n"
            "  clip: 1.0\n  seed: 7  # any\n\n# the gate\nregister:\n  model_name: a\n",
        ),
        (
            "train: {optimizer: sgd, seed: 7}\n\nregister: {model_name: a}\n",
            "train: {lr: 0.1, optimizer: sgd, augment: {flip: true, shift_px: 2}, seed: 7, clip: 1.0}\n\n"
            "register: {model_name: a}\n",
        ),
        (
            "register:\n  model_name: a\n",
            "train:\n  lr: 0.1\n  augment:\n    flip: true\n    shift_px: 2\n  clip: 1.0\nregister:\n  model_name: a\n",
        ),
    ],
    ids=["lines", "braces", "no section"],
)
def test_new_keys_take_the_place_that_params_md_gives_them(project: Path, before: str, after: str) -> None:
    (project / "params.yaml").write_text(before)
    (project / "patch.yaml").write_text("train: {clip: 1.0, augment: {shift_px: 2, flip: true}, lr: 0.1}\n")

    apply_patch(project, project / "patch.yaml")

    assert (project / "params.yaml").read_text() == after


def test_a_patch_that_would_be_refused_is_not_written(project: Path) -> None:
    text = (project / "params.yaml").read_text()
    (project / "patch.yaml").write_text("train: {lr: 0}\n")

    with pytest.raises(ParamsError) as error:
        apply_patch(project, project / "patch.yaml")

    assert str(error.value) == "params.yaml: train.lr is 0; it must be more than 0."
    assert (project / "params.yaml").read_text() == text


def test_a_missing_patch_says_how_to_make_one(project: Path, convloop: Convloop) -> None:
    done = convloop("tune", "apply", "work/tune/lr/patch.yaml")

    assert (done.returncode, done.stderr) == (
        2,
        "convloop: work/tune/lr/patch.yaml is missing. Make one: convloop tune lr\n",
    )
