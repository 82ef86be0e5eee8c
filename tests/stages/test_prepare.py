"""prepare: the data gate lets nothing damaged, torn or scarce through."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convloop.config import Params
from convloop.core.folders import fresh_folder
from convloop.core.images import NO_SPLIT, Batch, manifest_text, write_shard
from convloop.core.shards import write_shards
from convloop.core.split import TEST
from convloop.errors import DataError, OutputError
from convloop.params_check import check
from convloop.pipeline import STAGES
from convloop.tracking import Tracker

_CLASSES = ("cat", "dog", "hen")


def run(word: str, project: Path, params: Params) -> None:
    STAGES[word].run(params, project, Tracker(project, params.tracking))


def random_images(count: int, seed: int = 7) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), np.uint8)


def batch_of(images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> Batch:
    count = len(labels_N)
    names_N = np.array([f"image-{index:04d}" for index in range(count)])
    return Batch(images_NHWC, labels_N, np.full(count, NO_SPLIT, np.int8), np.full((count, 2), 8, np.int32), names_N)


def write_raw(
    project: Path,
    counts: tuple[int, ...],
    twin_of_other_class: bool = False,
    images_NHWC: NDArray[np.uint8] | None = None,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write images, random where none are given, so many of each class."""
    labels_N = np.repeat(np.arange(len(counts)), counts)
    if images_NHWC is None:
        images_NHWC = random_images(len(labels_N))
    if twin_of_other_class:
        images_NHWC[-1] = images_NHWC[0]
    with fresh_folder(project / "data/raw") as folder:
        write_shards(folder, [batch_of(images_NHWC, labels_N)], _CLASSES[: len(counts)], facts or {})


def land(project: Path, images_NHWC: NDArray[np.uint8], facts: dict[str, Any] | None = None) -> None:
    """Add one shard of cats to data/landed."""
    landed = project / "data/landed"
    shard = write_shard(landed, "later", batch_of(images_NHWC, np.zeros(len(images_NHWC), np.int64)))
    (landed / "manifest.json").write_text(manifest_text(_CLASSES[:1], [shard | (facts or {})], {}))


def report_of(project: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((project / "reports/prepare/report.json").read_text())
    return report


def splits_of(project: Path) -> NDArray[np.int8]:
    splits_N: NDArray[np.int8] = np.load(project / "data/prepared/splits.npy")
    return splits_N


def asked(**prepare: Any) -> Params:
    """Make params that ask something of the data."""
    return check({"prepare": {"val_share": 0.2, "test_share": 0.2, "min_class_image_count": 5, **prepare}})


def refusal(project: Path, params: Params) -> str:
    """Give the one finding that stops the pipeline."""
    with pytest.raises(DataError) as raised:
        run("prepare", project, params)
    (finding,) = str(raised.value).splitlines()[1:-1]
    return finding.removeprefix("  - ")


@pytest.fixture
def other_params() -> Params:
    return check({"prepare": {"val_share": 0.2, "test_share": 0.2, "min_class_image_count": 5}})


def test_prepare_splits_all_images_and_says_so(
    project: Path, other_params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raw(project, (300, 300))
    run("prepare", project, other_params)
    card: dict[str, Any] = json.loads((project / "data/prepared/card.json").read_text())
    splits_N = np.load(project / "data/prepared/splits.npy")
    train, val, test = (int((splits_N == split).sum()) for split in range(3))
    assert card["split_image_count"] == {"train": train, "val": val, "test": test}
    assert train + val + test == 600
    assert capsys.readouterr().out == (
        f"data/prepared splits 600 images: {train:,} train, {val:,} val, {test:,} test.\n"
    )


def test_preparing_twice_writes_the_same_bytes(trained: Path, params: Params) -> None:
    files = [trained / "data/prepared" / name for name in ("card.json", "splits.npy")]
    before = [file.read_bytes() for file in files]
    run("prepare", trained, params)
    assert [file.read_bytes() for file in files] == before


def test_prepare_needs_raw_data(project: Path, params: Params) -> None:
    with pytest.raises(DataError) as raised:
        run("prepare", project, params)
    assert str(raised.value) == (
        f"{project}/data/raw/manifest.json is missing. "
        "Make it: dvc repro generate (data/landed comes with git: git checkout)."
    )


def test_train_needs_raw_data(project: Path, params: Params) -> None:
    with pytest.raises(DataError) as raised:
        run("train", project, params)
    assert str(raised.value) == (
        f"{project}/data/raw/manifest.json is missing. "
        "Make it: dvc repro generate (data/landed comes with git: git checkout)."
    )


def test_train_needs_prepared_data(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300))
    with pytest.raises(DataError) as raised:
        run("train", project, other_params)
    assert str(raised.value) == f"{project}/data/prepared/card.json is missing. Make it: dvc repro prepare"


@pytest.mark.parametrize("word", ["prepare", "train"])
def test_damaged_shard_is_named_before_anything_is_done(project: Path, other_params: Params, word: str) -> None:
    write_raw(project, (300, 300))
    shard = project / "data/raw/shard-00000.images.npy"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(bytes(content))
    with pytest.raises(DataError) as raised:
        run(word, project, other_params)
    said = str(raised.value)
    assert said.startswith(f"{shard} is damaged: its sha256 is ")
    assert said.endswith(". Make it again: dvc repro --force generate")
    assert not (project / "data/prepared").exists()
    assert not (project / "work/checkpoints").exists()


def test_missing_shard_is_named(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300))
    shard = project / "data/raw/shard-00000.facts.npz"
    shard.unlink()
    with pytest.raises(DataError) as raised:
        run("prepare", project, other_params)
    assert str(raised.value) == (
        f"{shard} is missing, but {project}/data/raw/manifest.json lists it. Make it again: dvc repro --force generate"
    )


def test_scarce_class_stops_the_pipeline(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300, 2))
    with pytest.raises(DataError) as raised:
        run("prepare", project, other_params)
    first, *findings, last = str(raised.value).splitlines()
    assert first == f"data/raw and data/landed: {len(findings)} findings stop the pipeline."
    assert last == "Look at reports/prepare/report.html, mend the source or the key named, then run dvc repro"
    assert [finding.partition(" has ")[0] for finding in findings] == ["  - class hen"] * 3
    assert [finding.partition("images in ")[2] for finding in findings] == [
        f"{split}; prepare.min_class_image_count asks for 5" for split in ("train", "val", "test")
    ]
    assert not (project / "data/prepared").exists()


def test_same_pixels_under_two_labels_stop_the_pipeline(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300), twin_of_other_class=True)
    with pytest.raises(DataError) as raised:
        run("prepare", project, other_params)
    assert str(raised.value) == (
        "data/raw and data/landed: 1 finding stops the pipeline.\n"
        "  - identical pixels under different labels (1 times, first image-0000, image-0599)\n"
        "Look at reports/prepare/report.html, mend the source or the key named, then run dvc repro"
    )


def test_blocked_data_leave_the_older_preparation(trained: Path, params: Params, other_params: Params) -> None:
    before = (trained / "data/prepared/card.json").read_bytes()
    write_raw(trained, (300, 300, 2))
    with pytest.raises(DataError):
        run("prepare", trained, other_params)
    assert (trained / "data/prepared/card.json").read_bytes() == before


def test_imbalance_warns_and_goes_on(project: Path, other_params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    write_raw(project, (3000, 100))
    run("prepare", project, other_params)
    said = capsys.readouterr().out.splitlines()
    warnings = json.loads((project / "data/prepared/card.json").read_text())["warnings"]
    assert warnings[-1] == "class cat has 30 times as many images as dog"
    assert said[:-1] == [f"Warning: {warning}." for warning in warnings]


def test_file_in_the_way_is_named(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300))
    (project / "data/prepared").write_text("in the way")
    with pytest.raises(OutputError) as raised:
        run("prepare", project, other_params)
    assert str(raised.value) == (
        f"{project}/data/prepared cannot be written: Not a directory. Make it writable "
        f"(ls -ld {project}/data; df -h {project}/data), then run the same command again."
    )


def test_blocked_data_leave_a_report_with_pictures_of_the_offenders(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300), twin_of_other_class=True)
    refusal(project, other_params)
    report = json.loads((project / "reports/prepare/report.json").read_text())
    assert report["passed"] is False
    blocking = [finding for finding in report["findings"] if finding["blocks"]]
    assert blocking == [
        {
            "rule": "twins_across_classes",
            "blocks": True,
            "message": "identical pixels under different labels (1 times, first image-0000, image-0599)",
            "offender_count": 1,
            "first_names": [["image-0000", "image-0599"]],
        }
    ]
    page = (project / "reports/prepare/report.html").read_text()
    assert "1 finding stops the pipeline." in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")
    offenders = (project / "reports/prepare/offenders.csv").read_text().splitlines()
    assert [line.split(",")[:4] for line in offenders] == [
        ["rule", "group", "name", "class"],
        ["twins_across_classes", "1", "image-0000", "cat"],
        ["twins_across_classes", "1", "image-0599", "dog"],
    ]


def test_sound_data_leave_a_report_and_a_card_to_read(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300), facts={"source": "folder", "refused_count": 0})
    run("prepare", project, other_params)
    card = json.loads((project / "data/prepared/card.json").read_text())
    assert card["sources"] == [
        {"folder": "data/raw", "image_count": 600, "shard_count": 1, "source": "folder", "refused_count": 0},
        {"folder": "data/landed", "image_count": 0, "shard_count": 0},
    ]
    assert json.loads((project / "reports/prepare/report.json").read_text())["passed"] is True
    assert "The data pass." in (project / "reports/prepare/report.html").read_text()
    page = (project / "reports/prepare/card.html").read_text()
    assert card["test_sha256"] in page
    assert "folder" in page
    assert page.count("data:image/png;base64,") == 16


def test_the_card_says_what_arrived_from_where_and_when(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300), facts={"source": "folder", "licence": "LICENSE: CC BY 4.0"})
    land(project, random_images(40, seed=8), {"source": "monday", "ingested_utc": "2026-11-22T10:00:00Z"})
    run("prepare", project, other_params)
    raw, landed = json.loads((project / "data/prepared/card.json").read_text())["sources"]
    assert raw["licence"] == "LICENSE: CC BY 4.0"
    assert landed["arrivals"] == [
        {"name": "later", "image_count": 40, "source": "monday", "ingested_utc": "2026-11-22T10:00:00Z"}
    ]
    page = (project / "reports/prepare/card.html").read_text()
    assert "licence LICENSE: CC BY 4.0" in page
    assert "arrival 2026-11-22T10:00:00Z" in page


def test_originals_of_another_mode_than_expected_stop_the_pipeline(project: Path) -> None:
    write_raw(project, (300, 300))
    said = refusal(project, asked(original_modes=["RGB", "CMYK"]))
    assert said == "600 images were of mode L, and prepare.original_modes allows RGB, CMYK"


def test_doubtful_labels_warn_with_pictures(project: Path) -> None:
    """Stripes across and down, of which every tenth has the wrong label."""
    images_NHWC = random_images(600) // 4
    images_NHWC[:300, ::2] += 150
    images_NHWC[300:, :, ::2] += 150
    images_NHWC[290:310] = images_NHWC[290:310][::-1]
    write_raw(project, (300, 300), images_NHWC=images_NHWC)
    run("prepare", project, asked(max_doubtful_share=0.01))
    (warning,) = [one for one in report_of(project)["findings"] if one["rule"] == "label_errors"]
    assert not warning["blocks"]
    assert warning["message"].endswith("; prepare.max_doubtful_share is 0.01")
    page = (project / "reports/prepare/report.html").read_text()
    assert page.count("labelled cat, looks dog") >= 8
    assert page.count("labelled dog, looks cat") >= 8


def test_refused_files_are_a_warning_and_in_the_card(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300), facts={"source": "folder", "refused_count": 3})
    run("prepare", project, other_params)
    card = json.loads((project / "data/prepared/card.json").read_text())
    assert card["refused_image_count"] == 3
    assert "3 files were refused: data/raw/refused.csv" in card["warnings"]


def test_class_names_are_text_in_the_pages_and_nothing_else(project: Path, other_params: Params) -> None:
    labels_N = np.repeat(np.arange(2), 300)
    with fresh_folder(project / "data/raw") as folder:
        write_shards(folder, [batch_of(random_images(600), labels_N)], ("<script>alert(1)</script>", "dog"), {})
    run("prepare", project, other_params)
    assert "<script>" not in (project / "reports/prepare/card.html").read_text()


def test_near_twins_never_train_and_judge(project: Path, other_params: Params) -> None:
    """Each image comes twice, the second time a little brighter; half of them lie in one split by luck."""
    images_NHWC = np.repeat(random_images(400) // 2, 2, axis=0)
    images_NHWC[1::2] += 9
    write_raw(project, (400, 400), images_NHWC=images_NHWC)
    run("prepare", project, other_params)
    one_N, other_N = splits_of(project).reshape(-1, 2).T
    assert ((one_N == other_N) | (one_N == NO_SPLIT) | (other_N == NO_SPLIT)).all()
    left_out_count = int((splits_of(project) == NO_SPLIT).sum())
    # A pair lies apart with probability 1 - (.6^2 + .2^2 + .2^2) = .56, five standard errors around.
    assert abs(left_out_count - 0.56 * 400) < 50
    report = json.loads((project / "reports/prepare/report.json").read_text())
    assert report["near_twins"]["pair_count"] == 400
    assert report["near_twins"]["left_out_image_count"] == left_out_count
    assert "near_twin_left_out,1,image-" in (project / "reports/prepare/offenders.csv").read_text()


def test_landed_near_twins_change_nothing_that_was_there(project: Path, other_params: Params) -> None:
    first_NHWC = random_images(600) // 2
    write_raw(project, (300, 300), images_NHWC=first_NHWC)
    run("prepare", project, other_params)
    before_N = splits_of(project)
    land(project, first_NHWC[:300] + 9)
    run("prepare", project, other_params)
    after_N = splits_of(project)
    np.testing.assert_array_equal(after_N[:600], before_N)
    assert set(after_N[600:][after_N[600:] != before_N[:300]]) == {NO_SPLIT}


def test_a_missing_class_that_was_expected_stops_the_pipeline(project: Path) -> None:
    write_raw(project, (300, 300))
    said = refusal(project, asked(classes=["cat", "dog", "hen"]))
    assert said == "class hen of prepare.classes is not in the data"


def test_originals_smaller_than_expected_stop_the_pipeline(project: Path) -> None:
    write_raw(project, (300, 300))
    said = refusal(project, asked(original_px_range=[9, 1000]))
    assert said == "600 images have a side outside 9 to 1000 px, which prepare.original_px_range allows"


def test_images_darker_than_expected_stop_the_pipeline(project: Path) -> None:
    images_NHWC = random_images(600)
    images_NHWC[3] //= 4
    write_raw(project, (300, 300), images_NHWC=images_NHWC)
    said = refusal(project, asked(brightness_range=[60.0, 200.0]))
    assert said == "1 image has a brightness outside 60 to 200, which prepare.brightness_range allows"


def test_a_frozen_test_set_stays_as_data_land(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300))
    run("prepare", project, other_params)
    first = json.loads((project / "data/prepared/card.json").read_text())
    land(project, random_images(300, seed=8))
    run("prepare", project, other_params)
    grown = json.loads((project / "data/prepared/card.json").read_text())
    assert (grown["test_version"], len(grown["test_versions"])) == (2, 2)
    assert grown["test_versions"][0] == first["test_versions"][0]

    run("prepare", project, asked(test_sha256=first["test_sha256"]))
    frozen = json.loads((project / "data/prepared/card.json").read_text())
    assert (frozen["test_version"], frozen["test_sha256"]) == (1, first["test_sha256"])
    assert frozen["left_out_image_count"] == grown["split_image_count"]["test"] - first["split_image_count"]["test"]


def test_a_frozen_test_set_that_lost_an_image_stops_the_pipeline(project: Path, other_params: Params) -> None:
    write_raw(project, (300, 300))
    run("prepare", project, other_params)
    sha256 = json.loads((project / "data/prepared/card.json").read_text())["test_sha256"]
    gone = int(np.flatnonzero(splits_of(project) == TEST)[0])
    label_of_gone = int(gone >= 300)
    write_raw(
        project, (300 - (not label_of_gone), 300 - label_of_gone), images_NHWC=np.delete(random_images(600), gone, 0)
    )
    said = refusal(project, asked(test_sha256=sha256))
    assert said.startswith(f"the test set is not the one of prepare.test_sha256, {sha256}; version 1 is ")
