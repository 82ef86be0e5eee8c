"""A training that cannot end well says so early, and what to do."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convloop.config import TrainParams
from convloop.errors import TrainingError
from convloop.training.trainer import fit
from tests.conftest import Recorder, environment
from tests.training.test_fit import _batches, _classifier, _fit


def test_weights_that_the_last_step_broke_are_not_kept(tmp_path: Path, recorder: Recorder) -> None:
    """The loss of the only step was fine; its update was not."""
    settings = TrainParams(accelerator="cpu", devices=1, batch_size=256, epochs=1)

    with pytest.raises(TrainingError) as error:
        fit(
            _classifier(lr=1e38),
            _batches().resized(256),
            settings,
            image_count=200,
            state=tmp_path,
            resume_from=None,
            run=recorder,
        )

    assert str(error.value) == (
        "The validation loss was nan by step 1 (epoch 1, lr 1e+38). Lower train.lr; nothing was learned yet."
    )
    assert list(tmp_path.glob("*.ckpt")) == []


def test_the_state_of_the_epoch_before_is_kept(tmp_path: Path, recorder: Recorder) -> None:
    _fit(tmp_path, recorder, epochs=1)
    last = torch.load(tmp_path / "last.ckpt", weights_only=False)
    before = {name: tensor.clone() for name, tensor in last["state_dict"].items()}
    last["optimizer_states"][0]["param_groups"][0]["lr"] = 1e38
    torch.save(last, tmp_path / "last.ckpt")

    with pytest.raises(TrainingError) as error:
        _fit(tmp_path, recorder, epochs=3)

    assert str(error.value) == (
        "The loss was nan by step 14 (epoch 2, lr 0.002). Lower train.lr; the state after epoch 1 is kept to resume from."
    )
    kept = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert all(torch.equal(kept[name], before[name]) for name in before)


def test_a_loss_that_stays_far_above_its_start_ends_the_training(tmp_path: Path, recorder: Recorder) -> None:
    with pytest.raises(TrainingError) as error:
        _fit(tmp_path, recorder, epochs=40, lr=3.0)

    assert re.fullmatch(
        r"The loss diverges: \S+ on the mean by step \d+ \(epoch \d+, lr 3\), after 1\.\d+ at the start\. "
        r"Lower train\.lr, or have one found: convloop tune lr; the state after epoch \d+ is kept to resume from\.",
        str(error.value),
    )


def test_a_net_whose_units_have_died_is_named_once(
    tmp_path: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = _classifier()
    with torch.no_grad():
        for parameter in list(classifier.net.parameters())[:-2]:
            parameter.fill_(-1.0)  # no pixel is so bright that a unit answers

    _fit(tmp_path, recorder, epochs=3, classifier=classifier)

    assert capsys.readouterr().err == (
        "Warning: the net gives every image the same answer by step 7 (epoch 1, lr 0.002). Either too large a rate has ended "
        "all that it had learned (lower train.lr, or have one found: convloop tune lr), or the labels do not follow from "
        "the images.\n"
    )


def test_a_rate_that_is_merely_high_goes_on(tmp_path: Path, recorder: Recorder) -> None:
    assert _fit(tmp_path, recorder, epochs=20, lr=0.005).epoch == 20


_MEMORY = """
import resource, sys
from pathlib import Path
import psutil, torch
torch.set_num_threads(1)
from convloop.config import TrainParams
from convloop.errors import TrainingError
from convloop.training.classifier import Classifier
from convloop.training.loaders import Batches
from convloop.training.trainer import fit
from convloop.core.nets import cnn2
from tests.conftest import Recorder

images_NHWC = torch.randint(0, 256, (4096, 16, 16, 3), dtype=torch.uint8)
labels_N = torch.arange(4096) % 3
limit = psutil.Process().memory_info().vms + 400_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def train(size):
    fit(
        Classifier(cnn2(16, 3, 3), (128.0,) * 3, (60.0,) * 3, 0.001),
        Batches((images_NHWC, labels_N), (images_NHWC[:8], labels_N[:8]), batch_size=size, seed=1),
        TrainParams(accelerator="cpu", devices=1, batch_size=size, epochs=1),
        image_count=4096, state=Path(sys.argv[1]), resume_from=None, run=Recorder(),
    )


try:
    train(4096)
except TrainingError as error:
    print(error, flush=True)
    train(int(str(error).rpartition("=")[2]))
"""


@pytest.mark.slow
@pytest.mark.system
def test_out_of_memory_names_a_batch_size_that_fits(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _MEMORY, str(tmp_path)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    assert re.match(
        r"Out of memory with train\.batch_size 4096: (\d+) fits, tried just now\. "
        r"Type it in, or for this run: --set train\.batch_size=\1\nepoch 1/1 ",
        done.stdout,
    ), done.stdout


@pytest.mark.slow
@pytest.mark.system
def test_a_terminal_shows_rate_and_time_left(trained: Path) -> None:
    lead, follower = pty.openpty()
    words = ("train", "--set", "train.epochs=3", "--set", "train.accelerator=cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "convloop", *words],
        cwd=trained,
        env=environment(trained, TERM="xterm-256color", COLUMNS="160"),
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    said = b""
    try:
        while part := os.read(lead, 65536):
            said += part
    except OSError:  # Linux ends a terminal so
        pass
    assert process.wait(60) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode("utf-8", "replace"))
    assert re.search(r"Epoch 2/2 .* \d+/\d+ \d+:\d\d:\d\d • \d+:\d\d:\d\d \d+\.\d+it/s", text), text[-2000:]
