"""Every message about params.yaml, whole."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from convloop.config import STRATEGY_NAMES, Params, TrainParams
from convloop.errors import ParamsError
from convloop.params_check import check, load

from .conftest import REPOSITORY


def _message(tree: dict[Any, Any]) -> str:
    with pytest.raises(ParamsError) as caught:
        check(tree)
    return str(caught.value)


def _file(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "params.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def _file_message(tmp_path: Path, content: str | bytes, *overrides: str) -> str:
    with pytest.raises(ParamsError) as caught:
        load(_file(tmp_path, content), overrides)
    return str(caught.value)


def test_params_of_the_repository_are_the_defaults() -> None:
    assert load(REPOSITORY / "params.yaml") == check({})


def test_params_of_the_repository_show_every_key_that_has_a_value() -> None:
    tree = YAML(typ="safe", pure=True).load(REPOSITORY / "params.yaml")
    defaults = check({}).model_dump(by_alias=True)
    del tree["generate"]["path"], defaults["generate"]["path"], defaults["generate"]["licence"]
    defaults["prepare"] = {key: value for key, value in defaults["prepare"].items() if value is not None}
    defaults["train"] = {key: value for key, value in defaults["train"].items() if value is not None}
    defaults["train"]["net"] = {"name": defaults["train"]["net"]["name"]}
    shown, tune = tree.pop("tune"), defaults.pop("tune")
    assert set(shown) == {key for key, value in tune.items() if value is not None}
    assert check({"tune": shown}).tune == check({}).tune
    defaults["train"] = {key: defaults["train"][key] for key in tree["train"]}  # it has keys that few will ever set
    assert tree == defaults


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(_file(tmp_path, "# nothing yet\n")) == check({})


def test_the_strategies_are_those_of_the_trainer() -> None:
    from convloop.training.trainer import STRATEGIES

    assert sorted(STRATEGIES) == sorted(STRATEGY_NAMES)


def test_params_cannot_be_changed_later() -> None:
    with pytest.raises(ValueError):
        check({}).train.lr = 0.1


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"tain": {}}, "params.yaml: tain is not a known key. Did you mean train?"),
        (
            {"zzzz": {}},
            "params.yaml: zzzz is not a known key. "
            "Known keys there: generate, prepare, train, evaluate, register, tracking, tune.",
        ),
        ({"registration": {}}, "params.yaml: registration is not a known key. Did you mean register?"),
        (
            {"train": {"batch_count": 1}},
            "params.yaml: train.batch_count is not a known key. Did you mean train.batch_size?",
        ),
        (
            {"register": {"model": "x"}},
            "params.yaml: register.model is not a known key. Did you mean register.model_name?",
        ),
        ({"train": {"int": 1}}, "params.yaml: train.int is not a known key. Did you mean train.net?"),
        (
            {"train": {"net": {"constrained-int": 1}}},
            "params.yaml: train.net.constrained-int is not a known key. "
            "Known keys there: name, channels, kernel_px, stride_px, padding, pool, hidden_count, depth, width, weights_path.",
        ),
        (
            {"train": {"net": {"kernel": 3}}},
            "params.yaml: train.net.kernel is not a known key. Did you mean train.net.kernel_px?",
        ),
        ({"train": {1: 2}}, "params.yaml: train.1 is 1; keys should be strings."),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(tree: dict[Any, Any], message: str) -> None:
    assert _message(tree) == message


def test_the_ends_of_a_range_come_in_order() -> None:
    with pytest.raises(ParamsError) as caught:
        check({"prepare": {"brightness_range": [200.0, 10.0]}})
    assert str(caught.value) == (
        "params.yaml: prepare.brightness_range is [200.0, 10.0]; the least comes first. Use [10.0, 200.0]."
    )


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"evaluate": None},
            "evaluate is empty, but must hold keys of its own. Known keys: batch_size, worst_image_count.",
        ),
        (
            {"prepare": [1]},
            "prepare is [1], but must hold keys of its own. Known keys: val_share, test_share, min_class_image_count, "
            "classes, original_px_range, original_modes, brightness_range, test_sha256, label_check_image_count, "
            "max_doubtful_share.",
        ),
        (
            {"train": {"net": "cnn3"}},
            'train.net is "cnn3", but must hold keys of its own. '
            "Known keys: name, channels, kernel_px, stride_px, padding, pool, hidden_count, depth, width, weights_path.",
        ),
        ({"train": {"epochs": "3"}}, 'train.epochs is "3"; it must be a whole number.'),
        ({"train": {"epochs": 1.5}}, "train.epochs is 1.5; it must be a whole number."),
        ({"train": {"epochs": True}}, "train.epochs is True; it must be a whole number."),
        ({"train": {"epochs": None}}, "train.epochs is empty; it must be a whole number."),
        ({"train": {"epochs": [1]}}, "train.epochs is [1]; it must be a whole number."),
        ({"train": {"lr": "1"}}, 'train.lr is "1"; it must be a number.'),
        ({"train": {"lr": True}}, "train.lr is True; it must be a number."),
        ({"generate": {"path": 3}}, "generate.path is 3; it must be text in quotes."),
        ({"train": {"net": {"name": 3}}}, "train.net.name is 3; it must be text in quotes."),
        ({"train": {"net": {"channels": 3}}}, "train.net.channels is 3; it must be a list, such as [32, 64]."),
        ({"train": {"net": {"channels": ["a"]}}}, 'train.net.channels.0 is "a"; it must be a whole number.'),
        (
            {"register": {"model_name": "a/b"}},
            'register.model_name is "a/b"; it must be a name without / and :, and without spaces at its ends.',
        ),
        (
            {"tracking": {"experiment": " a"}},
            'tracking.experiment is " a"; it must be a name without / and :, and without spaces at its ends.',
        ),
        ({"tracking": {"experiment": ""}}, 'tracking.experiment is ""; string should have at least 1 character.'),
    ],
)
def test_a_value_of_another_type_is_named(tree: dict[str, Any], message: str) -> None:
    assert _message(tree) == f"params.yaml: {message}"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train": {"lr": 0}}, "train.lr is 0; it must be more than 0."),
        ({"train": {"lr": 10.5}}, "train.lr is 10.5; it must be at most 10."),
        ({"train": {"epochs": 0}}, "train.epochs is 0; it must be at least 1."),
        ({"train": {"seed": 2**32}}, "train.seed is 4294967296; it must be less than 4294967296."),
        ({"train": {"seed": -1}}, "train.seed is -1; it must be at least 0."),
        ({"generate": {"image_count": 10**8}}, "generate.image_count is 100000000; it must be at most 10000000."),
        ({"prepare": {"val_share": 0.0}}, "prepare.val_share is 0.0; it must be more than 0."),
        ({"prepare": {"test_share": 1}}, "prepare.test_share is 1; it must be less than 1."),
        ({"generate": {"difficulty_share": 1.1}}, "generate.difficulty_share is 1.1; it must be at most 1."),
        ({"train": {"net": {"channels": [8, 0]}}}, "train.net.channels.1 is 0; it must be at least 1."),
        (
            {"train": {"net": {"channels": []}}},
            "train.net.channels is []; list should have at least 1 item after validation, not 0.",
        ),
        ({"train": {"lr": float("nan")}}, "train.lr is nan; it must be a finite number."),
        ({"train": {"lr": float("inf")}}, "train.lr is inf; it must be a finite number."),
        ({"prepare": {"val_share": float("nan")}}, "prepare.val_share is nan; it must be a finite number."),
        ({"train": {"keep": "worst"}}, "train.keep is \"worst\". Allowed: 'best' or 'last'."),
        ({"train": {"precision": 16}}, "train.precision is 16. Allowed: 32, 'bf16', 'fp16' or 'auto'."),
        ({"generate": {"channel_count": 2}}, "generate.channel_count is 2. Allowed: 1 or 3."),
        ({"train": {"net": {"padding": "sam"}}}, "train.net.padding is \"sam\". Allowed: 'valid' or 'same'."),
        ({"train": {"devices": "two"}}, "train.devices is \"two\"; it must be a whole number, or 'auto'."),
        ({"train": {"devices": 0}}, "train.devices is 0; it must be at least 1, or 'auto'."),
    ],
)
def test_a_value_out_of_range_is_named(tree: dict[str, Any], message: str) -> None:
    assert _message(tree) == f"params.yaml: {message}"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"generate": {"source": "cifar"}},
            'generate.source is "cifar". Known sources: synthetic, noise, folder, csv, archive, parquet, idx, cifar10, '
            "cifar100, npz, npy. Did you mean cifar10?",
        ),
        (
            {"train": {"net": {"name": "ccn3"}}},
            'train.net.name is "ccn3". Known nets: cnn2, cnn3, cnn, mlp, resnet9, resnet18, wideresnet, speednet. '
            "Did you mean cnn3?",
        ),
        (
            {"train": {"optimizer": "adma"}},
            'train.optimizer is "adma". Known optimizers: adam, adamw, sgd, muon. Did you mean adam?',
        ),
        (
            {"train": {"curve": "cosin"}},
            'train.curve is "cosin". Known curves: constant, one_cycle, cosine. Did you mean cosine?',
        ),
    ],
)
def test_an_unknown_name_is_given_the_nearest(tree: dict[str, Any], message: str) -> None:
    assert _message(tree) == f"params.yaml: {message}"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"train": {"net": {"name": "cnn3", "hidden_count": 4}}},
            "train.net.hidden_count is set, but cnn3 takes no such key. Remove it, or set train.net.name to cnn or mlp.",
        ),
        (
            {"train": {"net": {"name": "wideresnet", "depth": 20}}},
            "train.net.depth is 20, which is not 6n + 4 as wideresnet wants it. Use 16 or 22.",
        ),
        (
            {"train": {"net": {"name": "wideresnet", "depth": 8}}},
            "train.net.depth is 8, which is not 6n + 4 as wideresnet wants it. Use 10.",
        ),
        (
            {"train": {"net": {"name": "speednet", "depth": 9}}},
            "train.net.depth is 9, which is not 3n + 2 as speednet wants it. Use 8 or 11.",
        ),
        (
            {"train": {"net": {"name": "resnet9", "weights_path": "x.pth"}}},
            "train.net.weights_path is set, but resnet9 takes no such key. "
            "Remove it, or set train.net.name to timm:<name>.",
        ),
        (
            {"train": {"momentum": 0.9}},
            "train.momentum is 0.9, but adam takes none. Remove it, or set train.optimizer to sgd or muon.",
        ),
        (
            {"train": {"net": {"name": "mlp", "pool": "max"}}},
            "train.net.pool is set, but mlp takes no such key. Remove it, or set train.net.name to cnn.",
        ),
        (
            {"train": {"net": {"name": "cnn", "padding": "same", "kernel_px": 4}}},
            "train.net.padding is same, which needs an odd kernel, but train.net.kernel_px is 4. Use 3 or 5.",
        ),
        (
            {"prepare": {"val_share": 0.5, "test_share": 0.6}},
            "prepare.val_share and prepare.test_share are 1.1 together, which leaves nothing to train on. "
            "Keep the two below 1.",
        ),
        (
            {"generate": {"source": "npz"}},
            "generate.source is npz, but generate.path is empty. Set it to the folder or file to read.",
        ),
        (
            {"generate": {"source": "cifar10"}},
            "generate.source is cifar10, but generate.path is empty. Set it to the folder or file to read.",
        ),
        (
            {"train": {"class_weights": "inverse_frequency", "sampling": "balanced"}},
            "train.class_weights is inverse_frequency and train.sampling is balanced, which would correct the same "
            "imbalance twice. Set train.class_weights to none or train.sampling to shuffled.",
        ),
        (
            {"train": {"batch_size": 100, "devices": 8}},
            "train.batch_size is 100, which 8 devices cannot share evenly. Use 96 or 104.",
        ),
        (
            {"train": {"batch_size": 3, "devices": 8}},
            "train.batch_size is 3, which 8 devices cannot share evenly. Use 8.",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named(tree: dict[str, Any], message: str) -> None:
    assert _message(tree) == f"params.yaml: {message}"


def test_every_mistake_gets_its_line() -> None:
    assert _message({"train": {"lr": 0, "epochs": 0}, "tain": {}}).splitlines() == [
        "params.yaml: train.epochs is 0; it must be at least 1.",
        "params.yaml: train.lr is 0; it must be more than 0.",
        "params.yaml: tain is not a known key. Did you mean train?",
    ]


@settings(deadline=None)
@given(
    tree=st.dictionaries(
        st.sampled_from(["generate", "train", "register", "x", ""]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["net", "lr", "seed", "channels", "devices", "path", "literal["]), inner
                )
            ),
            max_leaves=8,
        ),
    )
)
def test_any_tree_is_taken_or_refused_in_words(tree: dict[str, Any]) -> None:
    with suppress(ParamsError):
        assert isinstance(check(tree), Params)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        load(tmp_path / "params.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/params.yaml is missing. Go to the project's folder, or restore it: git checkout params.yaml"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "train:\n  lr: 0.1\n  lr: 0.2\n",
            'line 3, column 3: found duplicate key "lr" with value "0.2" (original value: "0.1"). Mend that line.',
        ),
        ("train: [1\nprepare: 3\n", "line 2, column 8: expected ',' or ']', but got ':'. Mend that line."),
        ("train:\n\tlr: 3\n", "line 2, column 1: found character '\\t' that cannot start any token. Mend that line."),
        ("train:\n  lr: 3: 4\n", "line 2, column 8: mapping values are not allowed here. Mend that line."),
        ("a: 1\n---\nb: 1\n", "line 2, column 1: but found another document. Mend that line."),
        (
            "a: !!python/object:os.system {}\n",
            "line 1, column 4: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'. "
            "Mend that line.",
        ),
        ("a: \x07\n", "unacceptable character #x0007: special characters are not allowed. Mend the YAML."),
        ("a: 2024-13-45\n", "month must be in 1..12. Mend the YAML."),
        (b"train:\n  lr: \xff\n", "byte 13 is not UTF-8. Save the file as UTF-8."),
    ],
)
def test_broken_yaml_is_named_with_its_place(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert _file_message(tmp_path, content) == f"params.yaml: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "params.yaml holds a list; it must hold sections such as train: with keys below."),
        ("text\n", "params.yaml holds a str; it must hold sections such as train: with keys below."),
        ("#" * 100_001, "params.yaml holds 100,001 characters; at most 100,000 are read."),
        ("a: &a [1]\nb: *a\n", "params.yaml uses a YAML alias (*name). Write the value out instead."),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str, message: str) -> None:
    assert _file_message(tmp_path, content) == message


def test_an_alias_bomb_is_never_expanded(tmp_path: Path) -> None:
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 30)]
    assert _file_message(tmp_path, "\n".join(bomb)) == (
        "params.yaml uses a YAML alias (*name). Write the value out instead."
    )


def test_a_bottomless_nesting_is_refused(tmp_path: Path) -> None:
    assert _file_message(tmp_path, "a: " + "[" * 40_000 + "]" * 40_000) == (
        "params.yaml nests more than 20 levels; its keys need three."
    )


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "1e-03"])
def test_powers_of_ten_are_numbers(tmp_path: Path, text: str) -> None:
    assert load(_file(tmp_path, f"train: {{lr: {text}}}\n")).train.lr == 0.001


@pytest.mark.parametrize("text", ["yes", "on", "'8'"])
def test_words_are_no_numbers(tmp_path: Path, text: str) -> None:
    shown = text.strip("'")
    assert _file_message(tmp_path, f"train: {{epochs: {text}}}\n") == (
        f'params.yaml: train.epochs is "{shown}"; it must be a whole number.'
    )


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("train.lr=0.01", "train.lr", 0.01),
        ("train.lr=1e-2", "train.lr", 0.01),
        (" train.lr = 0.01", "train.lr", 0.01),
        ("train.net.name=mlp", "train.net.name", "mlp"),
        ("train.devices=auto", "train.devices", "auto"),
        ("register.model_name=a=b", "register.model_name", "a=b"),
        ("generate.path=", "generate.path", None),
    ],
)
def test_set_changes_one_key(tmp_path: Path, assignment: str, key: str, value: Any) -> None:
    params = load(_file(tmp_path, "train: {epochs: 3}\n"), (assignment,))
    expected = Params.model_validate({"train": {"epochs": 3}}).model_dump(by_alias=True)
    *above, last = key.split(".")
    section = expected
    for name in above:
        section = section[name]
    section[last] = value
    assert params.model_dump(by_alias=True) == expected


def test_set_takes_a_list(tmp_path: Path) -> None:
    params = load(_file(tmp_path, ""), ("train.net.name=cnn", "train.net.channels=[8, 16]"))
    assert params.train.net.channels == [8, 16]


def test_the_last_set_of_a_key_counts(tmp_path: Path) -> None:
    assert load(_file(tmp_path, "train: {lr: 0.3}\n"), ("train.lr=0.1", "train.lr=0.2")).train.lr == 0.2


@pytest.mark.parametrize("assignment", ["train.lr", "=3", ".lr=3", "train.=3", "train..lr=3", "", "--lr"])
def test_set_without_key_and_value_is_refused(tmp_path: Path, assignment: str) -> None:
    assert _file_message(tmp_path, "", assignment) == (
        f'--set is "{assignment}", but needs section.key=value, such as --set train.lr=0.01'
    )


@pytest.mark.parametrize("text", ["[1", "'x", "a: b: c", "*a", "2024-13-45", "{"])
def test_set_of_a_broken_value_is_refused(tmp_path: Path, text: str) -> None:
    assert _file_message(tmp_path, "", f"train.lr={text}") == (
        f'--set train.lr is "{text}", which is not a YAML value. Quote it: --set \'train.lr="..."\''
    )


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.lr.x=3", "params.yaml: train.lr.x cannot be set, since lr is a value and holds no keys."),
        ("train.lrr=3", "params.yaml: train.lrr is not a known key. Did you mean train.lr?"),
        ("train.lr=", "params.yaml: train.lr is empty; it must be a number."),
        ("train=3", "params.yaml: train is 3, but must hold keys of its own. "
         f"Known keys: {', '.join(TrainParams.model_fields)}."),
    ],
)  # fmt: skip
def test_set_of_a_wrong_key_or_value_is_refused(tmp_path: Path, assignment: str, message: str) -> None:
    assert _file_message(tmp_path, "train: {lr: 0.1}\n", assignment) == message


def test_flat_lists_chosen_sections_under_dotted_keys() -> None:
    params = check({"train": {"net": {"name": "cnn", "channels": [8]}}, "register": {"model_name": "small"}})
    flat = params.flat("train", "evaluate")
    assert {key: value for key, value in flat.items() if not key.startswith("train.") or ".net." in key} == {
        "train.net.name": "cnn",
        "train.net.channels": [8],
        "evaluate.batch_size": 512,
        "evaluate.worst_image_count": 25,
    }


def test_flat_leaves_nothing_chosen_out() -> None:
    assert {key.partition(".")[0] for key in check({}).flat("generate", "prepare", "train")} == {
        "generate",
        "prepare",
        "train",
    }


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"accelerator": "cpu", "precision": "fp16"},
         "train.precision is fp16, which needs a GPU, but train.accelerator is cpu. Use bf16."),
        ({"accelerator": "cpu", "sync_batchnorm": True},
         "train.sync_batchnorm is true, which needs a GPU, but train.accelerator is cpu. Use false."),
        ({"accelerator": "cpu", "images_in": "device"},
         "train.images_in is device, which needs a GPU, but train.accelerator is cpu. Use memory."),
        ({"accelerator": "cpu", "strategy": "deepspeed_stage_2"},
         "train.strategy is deepspeed_stage_2, which needs a GPU, but train.accelerator is cpu. Use ddp."),
        ({"strategy": "fsdp", "precision": "fp16"},
         "train.strategy is fsdp, which cannot train in fp16. Use ddp, or bf16."),
        ({"strategy": "deepspeed", "precision": "fp16"},
         "train.strategy is deepspeed, which cannot train in fp16. Use ddp, or bf16."),
        ({"strategy": "deepspeed", "accumulate": 2},
         "train.strategy is deepspeed, which carries pieces of a step from one epoch into the next, and loses them at a stop. "
         "Use ddp, or train.accumulate: 1."),
        ({"strategy": "deepspeed_stage_3"},
         "train.strategy is deepspeed_stage_3, which keeps folders for checkpoints, from which a training cannot go on. "
         "Use deepspeed or fsdp."),
        ({"strategy": "fsdp", "compile": True},
         "train.strategy is fsdp, which splits each layer, of which train.compile can fuse little or nothing. "
         "Use ddp, or train.compile: false."),
        ({"strategy": "fsdp", "average_share": 0.9},
         "train.strategy is fsdp, which splits weights, of which train.average_share wants all. Use ddp."),
        ({"strategy": "deepspeed", "optimizer": "muon"},
         "train.strategy is deepspeed, which splits weights, of which muon wants all. Use ddp."),
        ({"devices": 1, "sync_batchnorm": True},
         "train.sync_batchnorm is true, which needs several devices. Use false."),
        ({"devices": 4, "strategy": "single_device"},
         "train.strategy is single_device, which takes one device of 4. Use ddp."),
        ({"nodes": 2, "strategy": "ddp_spawn"},
         "train.strategy is ddp_spawn, which starts processes on one host, but train.nodes is 2. Use ddp."),
        ({"launcher": "torchrun", "strategy": "ddp_spawn"},
         "train.strategy is ddp_spawn, which starts processes itself, but train.launcher is torchrun. Use ddp."),
        ({"devices": 3, "nodes": 2, "batch_size": 64},
         "train.batch_size is 64, which 6 devices cannot share evenly. Use 60 or 66."),
        ({"devices": 4, "accumulate": 3, "batch_size": 64},
         "train.batch_size is 64, which 4 devices cannot share evenly in 3 pieces. Use 60 or 72."),
        ({"accumulate": 3, "batch_size": 64},
         "train.batch_size is 64, which a device cannot share evenly in 3 pieces. Use 63 or 66."),
    ],
)  # fmt: skip
def test_devices_and_what_they_cannot_do_are_told_apart_at_the_door(train: dict[str, Any], message: str) -> None:
    assert _message({"train": train}) == f"params.yaml: {message}"
