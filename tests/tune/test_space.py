"""The space of a search in params: what it may hold."""

from pathlib import Path
from typing import Any

import pytest

from convloop.config import Params
from convloop.errors import ParamsError
from convloop.params_check import check
from convloop.tune.search import tune_search


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"train.lrr": {"low": 1, "high": 2}}, "tune.space.train.lrr is not a key of train. Did you mean tune.space.train.lr?"),
        ({"train.lr": {"low": 0.1}}, "tune.space.train.lr needs either low and high, or choices."),
        ({"train.lr": {}}, "tune.space.train.lr needs either low and high, or choices."),
        (
            {"train.lr": {"low": 0.1, "high": 0.2, "choices": [0.1, 0.2]}},
            "tune.space.train.lr needs either low and high, or choices.",
        ),
        ({"train.lr": {"low": 0.2, "high": 0.1}}, "tune.space.train.lr.low is 0.2; it must be less than high, 0.1."),
        (
            {"train.lr": {"low": 0, "high": 0.1, "log": True}},
            "tune.space.train.lr.low is 0; with log it must be more than 0.",
        ),
        (
            {"train.lr": {"low": 0.1, "high": 20.0}},
            "train.lr is 20.0; it must be at most 10. It is in tune.space.train.lr.",
        ),
        (
            {"train.batch_size": {"choices": [32, "many"]}},
            'train.batch_size is "many"; it must be a whole number. It is in tune.space.train.batch_size.',
        ),
        (
            {"train.lr": {"lowest": 0.1}},
            "tune.space.train.lr.lowest is not a known key. Did you mean tune.space.train.lr.low?",
        ),
        ({"train.seed": {"low": 1, "high": 9}}, "tune.space.train.seed cannot be searched. Remove it, and use convloop tune repeats."),
        ({"train.epochs": {"low": 1, "high": 9}}, "tune.space.train.epochs cannot be searched. Remove it, and use tune.epochs."),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_searched_is_refused(space: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError) as error:
        check({"tune": {"space": space}})

    assert str(error.value) == f"params.yaml: {said}"


def test_nested_keys_and_names_may_be_searched() -> None:
    space = {"train.net.name": {"choices": ["cnn2", "cnn3"]}, "train.batch_size": {"low": 16, "high": 64}}

    assert set(check({"tune": {"space": space}}).tune.space) == set(space)


def test_a_missing_optuna_says_how_to_install_it(
    project: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ParamsError) as error:
        tune_search(project, params, apply=False)

    assert str(error.value) == (
        'convloop tune search needs Optuna, which is not installed. Install it: pip install "convloop[tune]"'
    )
