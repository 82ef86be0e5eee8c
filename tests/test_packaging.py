"""The package needs neither this source nor pickle, and answers like the net that was trained."""

import io
import json
import os
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from convloop.config import Params
from convloop.core.card import ModelCard, read_card
from convloop.core.nets import NETS
from convloop.core.package import Package, logits_of, with_digest
from convloop.packaging import write_package

_COUNTS = (1, 7, 33)
_TOLERANCE = 1e-5
_LOAD = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "convloop":
            raise ModuleNotFoundError(f"{name} must not be needed")
        return None

sys.meta_path.insert(0, Blocker())
import numpy as np
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
with np.load(sys.argv[2]) as images:
    np.savez(sys.argv[3], **{name: model.predict(images[name]) for name in images.files})
assert not [name for name in sys.modules if name.startswith("convloop")]
"""


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), np.uint8)


@pytest.fixture
def elsewhere(trained: Path, tmp_path: Path) -> dict[str, NDArray[np.float32]]:
    """Answers of the package in a process that cannot import convloop, for batches of several sizes."""
    np.savez(tmp_path / "images.npz", **{f"n{count}": pictures(count) for count in _COUNTS})  # type: ignore[arg-type]
    (tmp_path / "away").mkdir()
    words = [str(trained / "models/model"), str(tmp_path / "images.npz"), str(tmp_path / "answers.npz")]
    answer = subprocess.run(
        [sys.executable, "-I", "-c", _LOAD, *words],
        cwd=tmp_path / "away",
        env={**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    with np.load(tmp_path / "answers.npz") as answers:
        return {name: answers[name] for name in answers.files}


def test_package_answers_without_this_source_as_with_it(
    trained: Path, elsewhere: dict[str, NDArray[np.float32]]
) -> None:
    package = Package(trained / "models/model")
    for count in _COUNTS:
        ours_NK = package.probabilities(pictures(count), batch_size=64)
        assert elsewhere[f"n{count}"].shape == (count, 3)
        np.testing.assert_allclose(elsewhere[f"n{count}"], ours_NK, rtol=0, atol=_TOLERANCE)


def test_package_answers_like_the_net_that_was_trained(trained: Path, trained_files: Path, params: Params) -> None:
    """The independent reference: the checkpoint's weights in a fresh net, with the pixels normalised in NumPy."""
    package = Package(trained / "models/model")
    (state,) = (trained_files / "work/checkpoints").iterdir()
    checkpoint = torch.load(state / "best.ckpt", map_location="cpu", weights_only=True)
    net = NETS[params.train.net.name](16, 3, 3)
    net.load_state_dict(
        {name.removeprefix("net."): value for name, value in checkpoint["state_dict"].items() if name[:4] == "net."}
    )
    net.eval()
    for count in _COUNTS:
        standard_NHWC = (pictures(count).astype(np.float64) - package.card.mean_C) / package.card.std_C
        images_NCHW = torch.from_numpy(np.ascontiguousarray(standard_NHWC.transpose(0, 3, 1, 2), np.float32))
        with torch.no_grad():
            logits_NK = net(images_NCHW).double().numpy()
        powers_NK = np.exp(logits_NK - logits_NK.max(1, keepdims=True))
        expected_NK = powers_NK / powers_NK.sum(1, keepdims=True)
        ours_NK = package.probabilities(pictures(count), batch_size=64)
        np.testing.assert_allclose(ours_NK, expected_NK, rtol=0, atol=_TOLERANCE)


def test_batches_do_not_change_answers(trained: Path) -> None:
    package = Package(trained / "models/model")
    whole_NK = package.probabilities(pictures(33), batch_size=33)
    for batch_size in (1, 2, 7, 32, 100):
        parts_NK = package.probabilities(pictures(33), batch_size=batch_size)
        np.testing.assert_allclose(parts_NK, whole_NK, rtol=0, atol=_TOLERANCE)


def test_package_holds_no_pickle_of_ours(trained: Path) -> None:
    """Inside the graph, torch keeps one example input in its own form, which may name nothing but tensors."""
    files = sorted(file for file in (trained / "models/model").rglob("*") if file.is_file())
    assert {file.suffix for file in files} == {"", ".json", ".txt", ".yaml", ".pt2"}
    assert [file.name for file in files if not file.suffix] == ["MLmodel"]
    (graph,) = (file for file in files if file.suffix == ".pt2")
    pickles: dict[str, set[str]] = {}
    with zipfile.ZipFile(graph) as archive:
        assert [name for name in archive.namelist() if name.endswith((".pkl", ".pickle"))] == []
        for name in archive.namelist():
            content = io.BytesIO(archive.read(name))
            if zipfile.is_zipfile(content):
                with zipfile.ZipFile(content) as inner:
                    found = (
                        str(argument)
                        for member in inner.namelist()
                        if member.endswith(".pkl")
                        for operation, argument, _ in pickletools.genops(inner.read(member))
                        if "GLOBAL" in operation.name
                    )
                    pickles[name] = set(found)
    assert pickles == {
        "model/data/sample_inputs/model.pt": {
            "collections OrderedDict",
            "torch ByteStorage",
            "torch._utils _rebuild_tensor_v2",
        }
    }


def test_package_names_what_it_needs_with_versions(trained: Path) -> None:
    needed = (trained / "models/model/requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in needed] == ["torch", "mlflow", "numpy"]
    assert "convloop" not in (trained / "models/model/MLmodel").read_text()


def test_package_says_what_it_answers(trained: Path) -> None:
    card = read_card(trained / "models/model")
    record = json.loads((trained / "reports/train/record.json").read_text())
    assert (card.image_px, card.channel_count, card.net) == (16, 3, "cnn2")
    assert list(card.classes) == json.loads((trained / "data/raw/manifest.json").read_text())["classes"]
    assert card.digest == record["digest"]
    assert card.epoch == record["best"]["epoch"]


def test_net_in_training_mode_is_packaged_for_answering(tmp_path: Path) -> None:
    """Dropout must not act in the package, even when the net that comes is still in training mode."""
    torch.manual_seed(7)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8 * 8, 2)).train()
    card = with_digest(ModelCard(("a", "b"), 8, 1, "linear", 1, (128.0,), (64.0,)), net)
    write_package(tmp_path / "model", net, card)
    images_NHWC = np.random.default_rng(7).integers(0, 256, (5, 8, 8, 1), np.uint8)
    first_NK, second_NK = (Package(tmp_path / "model").probabilities(images_NHWC, batch_size=5) for _ in range(2))
    linear = net[2]
    assert isinstance(linear, nn.Linear)
    pixels_ND = (images_NHWC.reshape(5, -1) - 128.0) / 64.0
    logits_NK = pixels_ND @ linear.weight.detach().numpy().T.astype(np.float64) + linear.bias.detach().numpy()
    expected_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(1, keepdims=True)
    np.testing.assert_array_equal(first_NK, second_NK)
    np.testing.assert_allclose(first_NK, expected_NK, rtol=0, atol=_TOLERANCE)


@pytest.mark.parametrize("name", ["resnet9", "resnet18", "wideresnet", "speednet"])
def test_a_net_with_normalisation_answers_from_its_package_as_it_does_itself(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = NETS[name](16, 3, 3)
    with torch.no_grad():
        net(torch.randn(32, 3, 16, 16))  # moves the running statistics off 0 and 1
    test_flip = name == "speednet"
    test_shift_px = 1 if test_flip else 0
    card = ModelCard(
        ("a", "b", "c"), 16, 3, name, 1, (120.0,) * 3, (60.0,) * 3, test_flip=test_flip, test_shift_px=test_shift_px
    )
    card = with_digest(card, net)

    write_package(tmp_path / "model", net, card)

    standard_NHWC = (pictures(5).astype(np.float32) - 120) / 60
    images_NCHW = torch.from_numpy(standard_NHWC.transpose(0, 3, 1, 2))
    with torch.no_grad():
        logits_NK = logits_of(net.eval(), images_NCHW, test_flip=test_flip, test_shift_px=test_shift_px)
    answers_NK = Package(tmp_path / "model").probabilities(pictures(5), batch_size=5)
    np.testing.assert_allclose(answers_NK, torch.softmax(logits_NK, 1).numpy(), atol=_TOLERANCE)
