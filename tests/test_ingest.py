"""Ingest: new images land once, whole and tracked, or are refused with a reason, whatever is killed when."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convloop.config import Params
from convloop.core.images import Images, open_images
from convloop.errors import DataError, PipelineError
from convloop.ingest import Ingested, has_incoming, ingest
from convloop.pipeline import STAGES
from convloop.reporting.publish import publish_training
from convloop.tracking import Tracker
from tests.conftest import Convloop, environment

_DEADLINE_S = 120


def picture(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)


def drop(project: Path, name: str, pixels_HWC: NDArray[np.uint8]) -> Path:
    """Put a picture into the inbox as `<class>/<file>`, as if it had lain there for a while."""
    file = project / "data/incoming" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_HWC).save(file)
    return settled(file)


def settled(file: Path) -> Path:
    os.utime(file, (time.time() - 60, time.time() - 60))
    return file


def classes(project: Path) -> list[str]:
    names: list[str] = json.loads((project / "data/raw/manifest.json").read_text())["classes"]
    return names


def landed(project: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((project / "data/landed/manifest.json").read_text())
    return manifest


def images_of(project: Path) -> Images:
    return open_images(project / "data/raw", project / "data/landed")


def refusals(project: Path) -> dict[str, str]:
    """Give the reason of each refused file, which must lie beside it."""
    found = sorted((project / "work/refused").glob("*/*/*.reason.txt"))
    for reason in found:
        assert reason.with_name(reason.name.removesuffix(".reason.txt")).is_file()
    return {f"{file.parent.name}/{file.name.removesuffix('.reason.txt')}": file.read_text() for file in found}


# What lands


@pytest.mark.system
def test_new_images_land_in_a_shard_with_their_labels(trained: Path, repository: Path) -> None:
    one, two, _ = classes(trained)
    drop(trained, f"{two}/a.png", picture(1))
    drop(trained, f"{one}/b.png", picture(2))
    result = ingest(trained)
    images = images_of(trained)
    assert (result, result.summary) == (Ingested(2, 0, 0), "Ingested 2 new images.")
    assert len(images) == 602
    np.testing.assert_array_equal(images.take(np.array([600, 601])), [picture(2), picture(1)])
    assert [images.classes[label] for label in images.labels_N[600:]] == [one, two]
    assert images.names_N[600:].tolist() == [f"{one}/b.png", f"{two}/a.png"]
    assert not has_incoming(trained)
    assert list((trained / "work/claims").iterdir()) == []


@pytest.mark.system
def test_dvc_tracks_the_new_shard(trained: Path, dvc: Convloop) -> None:
    drop(trained, f"{classes(trained)[0]}/a.png", picture(1))
    ingest(trained)
    (shard,) = landed(trained)["shards"]
    files = [trained / f"data/landed/{shard['name']}.{kind}" for kind in ("images.npy", "facts.npz")]
    before = [file.read_bytes() for file in files]
    for file in files:
        assert file.with_name(f"{file.name}.dvc").is_file()
        file.unlink()
    answer = dvc("checkout", *(str(file) for file in files))
    assert answer.returncode == 0, answer.stderr
    assert [file.read_bytes() for file in files] == before


@pytest.mark.system
def test_shard_is_pushed_where_a_remote_is_set(trained: Path, dvc: Convloop, tmp_path: Path) -> None:
    dvc("remote", "add", "--default", "shelf", str(tmp_path / "shelf"))
    drop(trained, f"{classes(trained)[0]}/a.png", picture(1))
    ingest(trained)
    assert len([file for file in (tmp_path / "shelf").rglob("*") if file.is_file()]) == 2


@pytest.mark.system
def test_ingesting_the_same_images_again_adds_nothing(trained: Path, repository: Path) -> None:
    one, two, _ = classes(trained)
    drop(trained, f"{one}/a.png", picture(1))
    ingest(trained)
    before = landed(trained)
    drop(trained, f"{one}/another-name.png", picture(1))
    result = ingest(trained)
    assert (result, result.summary) == (Ingested(0, 1, 0), "Ingested 0 new images, 1 known already.")
    assert landed(trained) == before
    drop(trained, f"{one}/b.png", picture(2))
    drop(trained, f"{two}/c.png", picture(3))
    assert ingest(trained) == Ingested(2, 0, 0)
    assert landed(trained)["shards"][:1] == before["shards"]
    assert len(images_of(trained)) == 603


@pytest.mark.system
def test_twins_in_one_delivery_land_once(trained: Path, repository: Path) -> None:
    one, *_ = classes(trained)
    for name in ("a", "b"):
        drop(trained, f"{one}/{name}.png", picture(1))
    assert ingest(trained) == Ingested(1, 1, 0)
    assert len(images_of(trained)) == 601


@pytest.mark.system
def test_test_split_of_old_images_does_not_move(
    trained: Path, repository: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    before_N = np.load(trained / "data/prepared/splits.npy")
    for seed in range(60):
        drop(trained, f"{classes(trained)[seed % 3]}/{seed}.png", picture(seed))
    ingest(trained)
    STAGES["prepare"].run(params, trained, Tracker(trained, params.tracking, publish_training))
    after_N = np.load(trained / "data/prepared/splits.npy")
    assert len(after_N) == 660
    np.testing.assert_array_equal(after_N[:600], before_N)
    assert set(after_N[600:]) == {0, 1, 2}


# What does not


def test_image_known_from_the_source_is_not_added(trained: Path) -> None:
    images = images_of(trained)
    (pixels_HWC,) = images.take(np.array([5]))
    drop(trained, f"{images.classes[images.labels_N[5]]}/again.png", pixels_HWC)
    assert ingest(trained) == Ingested(0, 1, 0)
    assert landed(trained)["shards"] == []


def test_known_pixels_under_another_label_are_refused(trained: Path) -> None:
    images = images_of(trained)
    (pixels_HWC,) = images.take(np.array([5]))
    right = images.classes[images.labels_N[5]]
    wrong = next(name for name in images.classes if name != right)
    drop(trained, f"{wrong}/again.png", pixels_HWC)
    result = ingest(trained)
    assert (result, result.summary) == (
        Ingested(0, 0, 1),
        "Ingested 0 new images, 1 refused (work/refused).",
    )
    assert refusals(trained) == {f"{wrong}/again.png": f"the same pixels are known as {right}\n"}


def test_unknown_class_is_refused(trained: Path) -> None:
    drop(trained, "unicorn/a.png", picture(1))
    assert ingest(trained) == Ingested(0, 0, 1)
    assert refusals(trained) == {
        "unicorn/a.png": f"class unicorn is not one of {', '.join(classes(trained))}\n",
    }


def test_file_that_is_no_image_is_refused(trained: Path) -> None:
    one = classes(trained)[0]
    drop(trained, f"{one}/a.png", picture(1)).write_text("hello")
    settled(trained / "data/incoming" / one / "a.png")
    assert ingest(trained) == Ingested(0, 0, 1)
    assert refusals(trained) == {f"{one}/a.png": "not an image\n"}


def test_damaged_image_is_refused(trained: Path) -> None:
    one = classes(trained)[0]
    file = drop(trained, f"{one}/a.png", picture(1))
    file.write_bytes(file.read_bytes()[:400])
    settled(file)
    assert ingest(trained) == Ingested(0, 0, 1)
    ((name, reason),) = refusals(trained).items()
    assert name == f"{one}/a.png"
    assert reason.startswith("damaged (")


def test_refused_file_keeps_its_bytes(trained: Path) -> None:
    file = drop(trained, "unicorn/a.png", picture(1))
    before = file.read_bytes()
    ingest(trained)
    (kept,) = (trained / "work/refused").glob("*/unicorn/a.png")
    assert kept.read_bytes() == before


def test_empty_inbox_is_left_alone(trained: Path) -> None:
    result = ingest(trained)
    assert (result, result.summary) == (Ingested(0, 0, 0), "Ingested 0 new images.")
    assert not (trained / "work/claims").exists()


def test_file_still_being_written_waits_for_the_next_time(trained: Path) -> None:
    file = drop(trained, f"{classes(trained)[0]}/a.png", picture(1))
    os.utime(file, (time.time() + 60, time.time() + 60))
    assert ingest(trained) == Ingested(0, 0, 0)
    assert file.is_file()


def test_links_are_not_followed(trained: Path, tmp_path: Path) -> None:
    folder = trained / "data/incoming" / classes(trained)[0]
    folder.mkdir(parents=True)
    Image.fromarray(picture(1)).save(tmp_path / "private.png")
    (folder / "a.png").symlink_to(tmp_path / "private.png")
    assert ingest(trained) == Ingested(0, 0, 0)
    assert (tmp_path / "private.png").is_file()


def test_without_raw_data_the_images_stay(project: Path) -> None:
    file = drop(project, "star/a.png", picture(1))
    with pytest.raises(DataError) as raised:
        ingest(project)
    assert str(raised.value) == (
        f"{project}/data/raw/manifest.json is missing. "
        "Make it: dvc repro generate (data/landed comes with git: git checkout)."
    )
    assert file.is_file()
    assert not (project / "work/claims").exists()


# What is cut off


@pytest.mark.system
def test_failing_dvc_leaves_the_claim_to_the_next_ingest(trained: Path) -> None:
    drop(trained, f"{classes(trained)[0]}/a.png", picture(1))
    with pytest.raises(PipelineError) as raised:
        ingest(trained)
    said = str(raised.value)
    assert said.startswith("dvc add failed: ERROR: you are not inside of a DVC repository")
    assert said.endswith(". The images wait in work/claims; mend it, then: convloop ingest")
    assert landed(trained)["shards"] == []
    assert has_incoming(trained)
    subprocess.run(["dvc", "init", "--no-scm", "--quiet"], cwd=trained, check=True)
    assert ingest(trained) == Ingested(1, 0, 0)
    assert len(images_of(trained)) == 601


@pytest.mark.system
def test_claim_left_behind_is_taken_up_with_what_is_new(trained: Path, repository: Path) -> None:
    one, two, _ = classes(trained)
    claim = trained / "work/claims/20260101T000000000000"
    (claim / one).mkdir(parents=True)
    drop(trained, f"{one}/a.png", picture(1)).rename(claim / one / "a.png")
    drop(trained, f"{two}/b.png", picture(2))
    assert ingest(trained) == Ingested(2, 0, 0)
    assert len(landed(trained)["shards"]) == 2
    assert len(images_of(trained)) == 602
    assert list((trained / "work/claims").iterdir()) == []


@pytest.mark.system
def test_claim_that_landed_before_the_kill_is_not_added_again(trained: Path, repository: Path) -> None:
    one, *_ = classes(trained)
    file = drop(trained, f"{one}/a.png", picture(1))
    content = file.read_bytes()
    ingest(trained)
    before = landed(trained)
    claim = trained / "work/claims/20260101T000000000000" / one
    claim.mkdir(parents=True)
    (claim / "a.png").write_bytes(content)
    assert ingest(trained) == Ingested(0, 1, 0)
    assert landed(trained) == before


def _claimed(project: Path) -> bool:
    return any((project / "work/claims").glob("*/*/*"))


def _shard_written(project: Path) -> bool:
    return any((project / "data/landed").glob("*.facts.npz"))


def _shard_tracked(project: Path) -> bool:
    return len(list((project / "data/landed").glob("*.dvc"))) == 2


@pytest.mark.system
@pytest.mark.parametrize("reached", [_claimed, _shard_written, _shard_tracked])
def test_killed_ingest_is_finished_by_the_next(
    trained: Path, repository: Path, reached: Callable[[Path], bool]
) -> None:
    for seed in range(3):
        drop(trained, f"{classes(trained)[seed]}/{seed}.png", picture(seed))
    process = subprocess.Popen(
        [sys.executable, "-m", "convloop", "ingest"],
        cwd=trained,
        env=environment(trained),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline_s = time.monotonic() + _DEADLINE_S
    while not reached(trained):
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert landed(trained)["shards"] == []
    assert ingest(trained) == Ingested(3, 0, 0)
    images = images_of(trained)
    assert len(images) == 603
    np.testing.assert_array_equal(images.take(np.arange(600, 603)), [picture(seed) for seed in range(3)])
    assert list((trained / "work/claims").iterdir()) == []


def test_ingest_by_hand_says_what_came_of_it(trained: Path, convloop: Convloop) -> None:
    drop(trained, "unicorn/a.png", picture(1))
    answer = convloop("ingest")
    assert (answer.returncode, answer.stdout, answer.stderr) == (
        0,
        "Ingested 0 new images, 1 refused (work/refused).\n",
        "",
    )


def test_ingest_of_damaged_data_names_the_file(trained: Path) -> None:
    drop(trained, f"{classes(trained)[0]}/a.png", picture(1))
    shutil.copy(trained / "data/raw/shard-00000.facts.npz", trained / "data/raw/shard-00000.images.npy")
    with pytest.raises(DataError, match=rf"^{trained}/data/raw/shard-00000.images.npy is damaged: its sha256 is "):
        ingest(trained)
    assert has_incoming(trained)
