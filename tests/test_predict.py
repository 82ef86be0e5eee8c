"""Prediction: the champion's answer for each picture that opens, and a problem for each that does not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convloop.config import Params
from convloop.core.decode import decode
from convloop.core.images import open_images
from convloop.core.package import Package
from convloop.errors import TrackingError
from convloop.pipeline import STAGES
from convloop.predict import predict
from convloop.tracking import Tracker
from tests.conftest import Convloop


@pytest.fixture
def served(trained: Path, params: Params) -> Path:
    """`trained` with its model as the champion."""
    STAGES["register"].run(params, trained, Tracker(trained, params.tracking))
    return trained


def save_picture(project: Path, index: int) -> Path:
    """Save an image of the data as a file."""
    (pixels_HWC,) = open_images(project / "data/raw").take(np.array([index]))
    file = project / f"picture-{index}.png"
    Image.fromarray(pixels_HWC).save(file)
    return file


def expected_line(project: Path, index: int, file: Path) -> str:
    """Word the answer from the probabilities of the package that was never uploaded."""
    package = Package(project / "models/model")
    images_NHWC = open_images(project / "data/raw").take(np.array([index]))
    (shares_K,) = package.probabilities(images_NHWC, batch_size=1)
    ranked = sorted(zip(shares_K.tolist(), package.card.classes, strict=True), reverse=True)
    listed = "  ".join(f"{name} {share:.1%}" for share, name in ranked)
    return f"{file}: {ranked[0][1]}   ({listed})"


def test_champion_labels_pictures(served: Path) -> None:
    files = [save_picture(served, index) for index in (0, 7)]
    answers = predict(served, "small", 5, files)
    assert answers.lines == [
        "small version 1 (champion)",
        *(expected_line(served, index, file) for index, file in zip((0, 7), files, strict=True)),
    ]
    assert answers.problems == []


def test_pictures_become_square_as_those_of_the_training_did(trained: Path, params: Params) -> None:
    manifest = trained / "data/raw/manifest.json"
    manifest.write_text(manifest.read_text().replace('"fit": "crop"', '"fit": "stretch"'))
    for name in ("train", "evaluate", "register"):
        STAGES[name].run(params, trained, Tracker(trained, params.tracking))
    (pixels_HWC,) = open_images(trained / "data/raw").take(np.array([0]))
    Image.fromarray(pixels_HWC.repeat(2, 1)).save(trained / "wide.png")
    stretched_HWC, _ = decode(trained / "wide.png", image_px=16, channel_count=3, fit="stretch")
    package = Package(trained / "models/model")
    assert package.card.fit == "stretch"
    (shares_K,) = package.probabilities(stretched_HWC[None], batch_size=1)
    (_, line) = predict(trained, "small", 5, [trained / "wide.png"]).lines
    assert f"({package.card.classes[shares_K.argmax()]} {shares_K.max():.1%}" in line


def test_picture_that_does_not_open_is_a_problem_beside_the_answers(served: Path) -> None:
    good, bad = save_picture(served, 0), served / "notes.png"
    bad.write_text("hello")
    answers = predict(served, "small", 5, [bad, good])
    assert answers.lines == ["small version 1 (champion)", expected_line(served, 0, good)]
    assert answers.problems == [f"{bad}: not an image. Give an image file that opens."]


def test_prediction_needs_a_champion(project: Path) -> None:
    with pytest.raises(TrackingError) as raised:
        predict(project, "small", 5, [project / "a.png"])
    assert str(raised.value) == "small has no champion yet. Train and register one: make repro"


def test_command_answers_with_0_and_with_3_for_a_file_that_does_not_open(served: Path, convloop: Convloop) -> None:
    good = save_picture(served, 0)
    bad = served / "notes.png"
    bad.write_text("hello")
    answer = convloop("predict", str(good), str(bad))
    assert (answer.returncode, answer.stdout, answer.stderr) == (
        3,
        f"small version 1 (champion)\n{expected_line(served, 0, good)}\n",
        f"convloop: {bad}: not an image. Give an image file that opens.\n",
    )
