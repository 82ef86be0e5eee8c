"""Images lie on the device, in memory or in their files: the training is the same."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from convloop.config import TrainParams
from convloop.core.images import Batch as Landed
from convloop.core.images import Images, manifest_text, open_images, write_shard
from convloop.core.nets.plain import cnn2
from convloop.errors import DeviceError
from convloop.training import pixels
from convloop.training.classifier import Classifier
from convloop.training.loaders import Batches
from convloop.training.pixels import MappedPixels, read_pixels
from convloop.training.recipe import recipe_of
from convloop.training.trainer import Fitted, fit, short_trainer
from tests.conftest import Recorder

_INDICES_N = np.random.default_rng(3).permutation(240)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """Three shards of 80 images each."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "raw"
    folder.mkdir()
    entries = [
        write_shard(
            folder,
            f"shard-{number:05}",
            Landed(
                rng.integers(0, 256, (80, 16, 16, 3), np.uint8),
                np.arange(80) % 3,
                np.full(80, -1, np.int8),
                np.full((80, 2), 16, np.int32),
                np.array([f"{number}-{place}" for place in range(80)]),
            ),
        )
        for number in range(3)
    ]
    (folder / "manifest.json").write_text(manifest_text(("a", "b", "c"), entries, {}))
    return open_images(folder)


def _settings(**keys: object) -> TrainParams:
    return TrainParams.model_validate({"accelerator": "cpu", "devices": 1, "batch_size": 32, "epochs": 2} | keys)


def _trained(images: Images, state: Path, recorder: Recorder, **keys: object) -> Fitted:
    settings = _settings(**keys)
    train_N, val_N = _INDICES_N[:200], _INDICES_N[200:]
    state.mkdir(exist_ok=True)
    torch.manual_seed(5)
    return fit(
        Classifier(cnn2(16, 3, 3), (128.0,) * 3, (60.0,) * 3, 0.002, recipe=recipe_of(settings)),
        Batches(
            (read_pixels(images, train_N, settings), torch.from_numpy(images.labels_N[train_N])),
            (read_pixels(images, val_N, settings), torch.from_numpy(images.labels_N[val_N])),
            batch_size=32,
            seed=3,
            images_in=settings.images_in,
        ),
        settings,
        image_count=200,
        state=state,
        resume_from=None,
        run=recorder,
    )


def test_images_in_files_are_those_in_memory(images: Images) -> None:
    in_memory = read_pixels(images, _INDICES_N, _settings(images_in="memory"))
    in_files = read_pixels(images, _INDICES_N, _settings(images_in="files"))
    places_B = torch.tensor([239, 0, 7, 7, 120])

    assert isinstance(in_files, MappedPixels)
    assert torch.equal(in_files.index_select(0, places_B), in_memory.index_select(0, places_B))


def test_a_training_from_files_ends_in_the_weights_of_one_from_memory(
    tmp_path: Path, images: Images, recorder: Recorder
) -> None:
    from_memory = _trained(images, tmp_path / "memory", recorder, images_in="memory")
    from_files = _trained(images, tmp_path / "files", recorder, images_in="files")

    assert all(torch.equal(from_files.weights[name], weights) for name, weights in from_memory.weights.items())


def test_another_process_is_told_the_files_and_not_sent_the_images(images: Images) -> None:
    in_files = MappedPixels(images.shards, _INDICES_N)
    sent = pickle.dumps(in_files)

    assert len(sent) < 5_000
    places_B = torch.arange(240)
    assert torch.equal(pickle.loads(sent).index_select(0, places_B), in_files.index_select(0, places_B))


def test_images_stay_in_their_files_where_memory_is_short(
    images: Images, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    byte_count = 240 * 16 * 16 * 3
    monkeypatch.setattr(pixels, "available_bytes", lambda: 2 * byte_count)
    assert isinstance(read_pixels(images, _INDICES_N, _settings()), torch.Tensor)

    monkeypatch.setattr(pixels, "available_bytes", lambda: 2 * byte_count - 1)
    assert isinstance(read_pixels(images, _INDICES_N, _settings()), MappedPixels)
    assert capsys.readouterr().err == "0.0 GB of images stay in their files: memory has no room for them twice.\n"


def test_each_process_of_a_host_needs_room_of_its_own(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "available_bytes", lambda: 4 * 240 * 16 * 16 * 3)

    assert isinstance(read_pixels(images, _INDICES_N, _settings(devices=2)), torch.Tensor)
    assert isinstance(read_pixels(images, _INDICES_N, _settings(devices=4)), MappedPixels)

    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert isinstance(read_pixels(images, _INDICES_N, _settings(devices="auto")), MappedPixels)


def test_what_is_asked_for_holds_where_memory_is_short(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "available_bytes", lambda: 0)

    assert isinstance(read_pixels(images, _INDICES_N, _settings(images_in="memory")), torch.Tensor)


def test_a_deterministic_training_on_a_cpu_ends_in_the_usual_weights(
    tmp_path: Path, images: Images, recorder: Recorder
) -> None:
    usual = _trained(images, tmp_path / "usual", recorder)
    assert not torch.are_deterministic_algorithms_enabled()
    deterministic = _trained(images, tmp_path / "deterministic", recorder, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)

    assert all(torch.equal(deterministic.weights[name], weights) for name, weights in usual.weights.items())


def test_compiling_without_a_compiler_says_so(
    tmp_path: Path, images: Images, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "absent-compiler")

    with pytest.raises(DeviceError) as error:
        _trained(images, tmp_path, recorder, compile=True)

    assert str(error.value) == (
        "params.yaml: train.compile is true, but there is no absent-compiler, with which PyTorch compiles. "
        "Install a C++ compiler, name one in CXX, or use false."
    )
    with pytest.raises(DeviceError, match="there is no absent-compiler"):
        short_trainer(_settings(compile=True), [], step_count=1)  # a finder's


@pytest.mark.slow
def test_a_compiled_training_keeps_the_plain_nets_weights_and_comes_to_the_same(
    tmp_path: Path, images: Images, recorder: Recorder
) -> None:
    plain = _trained(images, tmp_path / "plain", recorder)
    compiled = _trained(images, tmp_path / "compiled", recorder, compile=True)

    assert counters["stats"]["unique_graphs"] >= 2  # of training and of validation: it was compiled indeed
    assert compiled.weights.keys() == plain.weights.keys()
    for name, weights in plain.weights.items():
        torch.testing.assert_close(compiled.weights[name], weights, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("images_in", ["device", "memory", "files"])
def test_a_deterministic_training_on_a_gpu_ends_in_the_same_weights_wherever_its_images_lie(
    tmp_path: Path, images: Images, recorder: Recorder, images_in: str
) -> None:
    first = _trained(images, tmp_path / "first", recorder, accelerator="gpu", deterministic=True)
    again = _trained(images, tmp_path / "again", recorder, accelerator="gpu", deterministic=True, images_in=images_in)

    assert all(torch.equal(again.weights[name], weights) for name, weights in first.weights.items())
