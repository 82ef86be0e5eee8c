"""Nets of timm, which is in no lock; pyproject.toml says why."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from convloop.config import Params
from convloop.core.nets import build
from convloop.core.package import Package
from convloop.errors import ParamsError
from convloop.params_check import check
from convloop.params_file import with_value
from convloop.pipeline import STAGES
from convloop.tracking import Tracker
from tests.test_packaging import pictures

try:
    import timm
    from safetensors.torch import save_file
except (ImportError, RuntimeError):  # torchvision made for another torch raises the latter
    pytest.skip(f"needs timm, and a torchvision built for torch {torch.__version__}", allow_module_level=True)

_NET = "test_resnet.r160_in1k"  # timm's own for tests
_FORMS: dict[str, Callable[[dict[str, Tensor], Path], None]] = {
    "weights.safetensors": save_file,
    "weights.pth": torch.save,
    "weights.pth.tar": lambda weights, file: torch.save({"state_dict": weights}, file),
}


def _weights() -> dict[str, Tensor]:
    """Give weights as a file of pretrained ones has them: a head of 1000 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        weights: dict[str, Tensor] = timm.create_model(_NET).state_dict()
    return weights


def _message(file: Path | None = None, name: str = _NET, image_px: int = 32) -> str:
    keys = {"weights_path": str(file)} if file else {}
    with pytest.raises(ValueError) as caught:
        build(f"timm:{name}", image_px, 3, 10, **keys)
    return str(caught.value)


@pytest.mark.parametrize("name", [_NET, "resnet10t"])
@pytest.mark.parametrize("channel_count", [1, 3])
def test_a_net_answers_images_of_32_pixels(name: str, channel_count: int) -> None:
    net = build(f"timm:{name}", 32, channel_count, 10)
    assert net(torch.zeros(2, channel_count, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("form", _FORMS)
@pytest.mark.parametrize("class_count", [10, 1000])
def test_pretrained_weights_make_the_body_and_the_head_is_new(tmp_path: Path, form: str, class_count: int) -> None:
    given = _weights()
    _FORMS[form](given, tmp_path / form)
    built = build(f"timm:{_NET}", 32, 3, class_count, weights_path=str(tmp_path / form)).state_dict()
    assert built.keys() == given.keys()
    differing = {name for name in built if not torch.equal(built[name], given[name])}
    assert "fc.weight" in differing
    assert differing <= {"fc.weight", "fc.bias"}


def test_weights_for_colours_are_fitted_to_grey(tmp_path: Path) -> None:
    given = _weights()
    save_file(given, tmp_path / "weights.safetensors")
    built = build(f"timm:{_NET}", 32, 1, 10, weights_path=str(tmp_path / "weights.safetensors")).state_dict()
    torch.testing.assert_close(built["conv1.0.weight"], given["conv1.0.weight"].sum(1, keepdim=True))


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    assert _message(file) == f"train.net.weights_path is {file}, where no file is. Set it to a file of weights"


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"no weights")
    assert _message(file) == (
        f"timm cannot build it with the weights of {file}: Error while deserializing header: header too large. "
        "Choose weights of this net, in timm's form"
    )


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(2)}, file)
    count = sum(weight.ndim > 1 for weight in _weights().values()) - 2  # less the head and the first layer
    assert _message(file) == (
        f"timm cannot build it with the weights of {file}: the file lacks {count} of {count} matrices and filters, such "
        "as conv1.3.weight. Choose weights of this net, in timm's form"
    )


def test_weights_that_lack_one_layer_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    given = _weights()
    count = sum(weight.ndim > 1 for weight in given.values()) - 2
    del given["layer2.0.conv1.weight"]
    torch.save(given, file)
    assert _message(file) == (
        f"timm cannot build it with the weights of {file}: the file lacks 1 of {count} matrices and filters, such "
        "as layer2.0.conv1.weight. Choose weights of this net, in timm's form"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10tt", "timm has no net of that name. The nearest is timm:resnet10t"),
        ("test_resnet.no", "timm cannot build it: Invalid pretrained tag (no) for test_resnet. Choose another"),
    ],
)
def test_an_unknown_name_is_refused(name: str, message: str) -> None:
    assert _message(name=name) == message


def test_images_too_small_for_a_net_are_refused() -> None:
    assert _message(name="inception_v3") == (
        "images of 32x32 pixels do not pass it: Calculated padded input size per channel: (1 x 1). Kernel size: (3 x 3). "
        "Kernel size can't be greater than actual input size. Use larger images or another net"
    )


def _train(project: Path, params: Params, name: str) -> None:
    tree = with_value(params.model_dump(by_alias=True), "train.net", {"name": f"timm:{name}"})
    chosen = check(with_value(with_value(tree, "train.epochs", 1), "train.batch_size", 33))
    STAGES["train"].run(chosen, project, Tracker(project, chosen.tracking))


def test_an_unknown_name_stops_training_with_its_key(trained: Path, params: Params) -> None:
    with pytest.raises(ParamsError) as caught:
        _train(trained, params, "resnet10tt")
    assert str(caught.value) == (
        "params.yaml: train.net.name is timm:resnet10tt, but timm has no net of that name. The nearest is timm:resnet10t."
    )


_LOAD = """
import sys

sys.modules["timm"] = None
import mlflow.pyfunc
import numpy as np

answers_NK = mlflow.pyfunc.load_model(sys.argv[1]).predict(np.load(sys.argv[2]))
np.save(sys.argv[3], answers_NK)
"""


def test_the_package_of_a_trained_net_answers_like_it_where_timm_is_not(
    trained: Path, params: Params, tmp_path: Path
) -> None:
    _train(trained, params, _NET)
    package = Package(trained / "models/model")
    (checkpoint,) = (trained / "work/checkpoints").glob("*/best.ckpt")
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    net = timm.create_model(_NET, num_classes=3)
    net.load_state_dict({name[4:]: value for name, value in weights.items() if name.startswith("net.")})
    images_NHWC = pictures(7)
    standard_NHWC = (images_NHWC - np.asarray(package.card.mean_C)) / np.asarray(package.card.std_C)
    with torch.no_grad():
        logits_NK = net.eval()(torch.from_numpy(standard_NHWC.transpose(0, 3, 1, 2).astype(np.float32)))
    expected_NK = torch.softmax(logits_NK, 1).numpy()

    np.testing.assert_allclose(package.probabilities(images_NHWC, batch_size=4), expected_NK, rtol=0, atol=1e-5)
    np.save(tmp_path / "images.npy", images_NHWC)
    words = [str(trained / "models/model"), str(tmp_path / "images.npy"), str(tmp_path / "answers.npy")]
    subprocess.run([sys.executable, "-c", _LOAD, *words], check=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected_NK, rtol=0, atol=1e-5)
