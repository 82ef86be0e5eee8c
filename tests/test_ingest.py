"""Ingest: new images land once, whole and tracked, or are refused with a reason, whatever is killed when."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from convloop.claims import claim_inbox
from convloop.config import Params
from convloop.core.images import Images, open_images
from convloop.core.modes import MODES
from convloop.errors import DataError, PipelineError
from convloop.ingest import Ingested, has_incoming, ingest
from convloop.pipeline import STAGES
from convloop.to_label import read_queue, write_queue
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


def table(project: Path, name: str, rows: str) -> Path:
    """Put a table of paths and labels into the inbox."""
    file = project / "data/incoming" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"path,label\n{rows}")
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
    """Give the reason of each refused file, which must lie beside the table of reasons."""
    found = {}
    for table in (project / "work/refused").glob("*/refused.csv"):
        with table.open(newline="") as opened:
            for row in csv.DictReader(opened):
                assert (table.parent / row["name"]).is_file()
                found[row["name"]] = row["reason"]
    return found


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
def test_new_images_keep_what_their_pixels_were(trained: Path, repository: Path) -> None:
    one, two, _ = classes(trained)
    drop(trained, f"{one}/a.png", picture(1)[..., 0])
    drop(trained, f"{two}/b.png", picture(2))
    ingest(trained)
    modes_N = images_of(trained).modes_N
    assert modes_N is not None
    assert [MODES[code] for code in modes_N[600:]] == ["L", "RGB"]


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
    STAGES["prepare"].run(params, trained, Tracker(trained, params.tracking))
    after_N = np.load(trained / "data/prepared/splits.npy")
    assert len(after_N) == 660
    np.testing.assert_array_equal(after_N[:600], before_N)
    assert set(after_N[600:]) == {0, 1, 2}


# Tables, deliveries, and what has no label


@pytest.mark.system
def test_table_labels_the_images_beside_it(trained: Path, repository: Path) -> None:
    one, two, _ = classes(trained)
    drop(trained, "march/x.png", picture(1))
    drop(trained, "march/deep/y.png", picture(2))
    table(trained, "march/labels.csv", f"x.png,{two}\ndeep/y.png,{one}\n")
    assert ingest(trained) == Ingested(2, 0, 0)
    images = images_of(trained)
    assert images.names_N[600:].tolist() == ["march/deep/y.png", "march/x.png"]
    assert [images.classes[label] for label in images.labels_N[600:]] == [one, two]
    assert list((trained / "data/incoming").iterdir()) == []


@pytest.mark.system
def test_shard_says_what_came_from_where_and_when(trained: Path, repository: Path) -> None:
    one, two, _ = classes(trained)
    (known_HWC,) = images_of(trained).take(np.array([5]))
    right = images_of(trained).classes[images_of(trained).labels_N[5]]
    drop(trained, f"{one}/a.png", picture(1))
    drop(trained, f"vendor/{one}/b.png", picture(2))
    drop(trained, "x.png", picture(3))
    drop(trained, "y.png", known_HWC)
    drop(trained, "z.png", picture(4)).write_text("hello")
    settled(trained / "data/incoming/z.png")
    table(trained, "march.csv", f"x.png,{two}\ny.png,{right}\nz.png,{two}\n")
    assert ingest(trained) == Ingested(3, 1, 1)
    shards = landed(trained)["shards"]
    assert [
        (shard["source"], shard["image_count"], shard["known_count"], shard["refused_count"]) for shard in shards
    ] == [("incoming", 1, 0, 0), ("march.csv", 1, 1, 1), ("vendor", 1, 0, 0)]
    for shard in shards:
        came = datetime.fromisoformat(shard["ingested_utc"])
        assert abs(datetime.now(UTC) - came) < timedelta(hours=1)
        assert shard["name"].startswith(came.strftime("%Y%m%dT%H%M%S"))


def test_images_without_a_label_wait_in_the_queue(trained: Path) -> None:
    drop(trained, "loose.png", picture(1))
    drop(trained, "unlabelled/a.png", picture(2))
    drop(trained, "vendor/unlabelled/b.PNG", picture(3))
    result = ingest(trained)
    assert result.summary == "Ingested 0 new images, 3 to be labelled (data/to_label)."
    rows = read_queue(trained)
    assert [(row["label"], row["came_as"], row["came_from"]) for row in rows.values()] == [
        ("", "loose.png", "incoming"),
        ("", "unlabelled/a.png", "incoming"),
        ("", "vendor/unlabelled/b.PNG", "vendor"),
    ]
    for path, seed in zip(rows, (1, 2, 3), strict=True):
        with Image.open(trained / "data/to_label" / path) as opened:
            np.testing.assert_array_equal(np.asarray(opened), picture(seed))
    assert len(images_of(trained)) == 600


def test_image_is_queued_once(trained: Path) -> None:
    for name in ("a.png", "b.png"):
        drop(trained, name, picture(1))
    assert ingest(trained) == Ingested(0, 1, 0, 1)
    drop(trained, "c.png", picture(1))
    assert ingest(trained) == Ingested(0, 1, 0, 0)


def test_image_that_has_its_label_already_is_not_queued(trained: Path) -> None:
    drop(trained, "loose.png", images_of(trained).take(np.array([5]))[0])
    assert ingest(trained) == Ingested(0, 1, 0)
    assert not (trained / "data/to_label").exists()


@pytest.mark.system
def test_queue_filled_in_goes_back_into_the_inbox(trained: Path, repository: Path) -> None:
    one, *_ = classes(trained)
    drop(trained, "first.png", picture(1))
    drop(trained, "second.png", picture(2))
    ingest(trained)
    rows = read_queue(trained)
    next(iter(rows.values()))["label"] = one
    write_queue(trained, rows)
    (trained / "data/to_label").rename(trained / "data/incoming/labelled")
    for file in (trained / "data/incoming/labelled").iterdir():
        settled(file)
    assert ingest(trained) == Ingested(1, 0, 0, 1)
    assert images_of(trained).names_N[600:].tolist() == ["first.png"]
    assert landed(trained)["shards"][0]["source"] == "incoming"
    assert [(row["came_as"], row["came_from"]) for row in read_queue(trained).values()] == [("second.png", "incoming")]


def test_damaged_queue_is_named(trained: Path) -> None:
    drop(trained, "a.png", picture(1))
    ingest(trained)
    (trained / "data/to_label/labels.csv").write_text("nothing,here\n1,2\n")
    drop(trained, "b.png", picture(2))
    with pytest.raises(DataError) as raised:
        ingest(trained)
    assert str(raised.value) == (
        f"{trained}/data/to_label/labels.csv cannot be read: 'path'. "
        "Save it as CSV in UTF-8 whose first line names path and label."
    )
    assert has_incoming(trained)


def test_file_whose_name_is_not_utf8_is_refused(trained: Path) -> None:
    drop(trained, f"{classes(trained)[0]}/a\udcff.png", picture(1))
    assert ingest(trained) == Ingested(0, 0, 1)
    (refused,) = (trained / "work/refused").glob("*/refused.csv")
    assert refused.read_text().splitlines()[1:] == [f"{classes(trained)[0]}/a\\xff.png,incoming,its name is not UTF-8"]


@pytest.mark.system
def test_other_columns_and_the_split_of_a_table_land_with_the_image(trained: Path, repository: Path) -> None:
    one, *_ = classes(trained)
    drop(trained, "x.png", picture(1))
    drop(trained, "y.png", picture(2))
    table(trained, "march.csv", "").write_text(f"path,label,camera,split\nx.png,{one},A7,test\ny.png,,B8,\n")
    settled(trained / "data/incoming/march.csv")
    assert ingest(trained) == Ingested(1, 0, 0, 1)
    images = images_of(trained)
    assert images.slices_N is not None
    assert (images.slices_N[600:].tolist(), images.splits_N[600:].tolist()) == (['{"camera": "A7"}'], [2])
    rows = read_queue(trained)
    next(iter(rows.values()))["label"] = one
    write_queue(trained, rows)
    (trained / "data/to_label").rename(trained / "data/incoming/labelled")
    for file in (trained / "data/incoming/labelled").iterdir():
        settled(file)
    assert ingest(trained) == Ingested(1, 0, 0)
    again = images_of(trained)
    assert again.slices_N is not None
    assert (again.names_N[601], again.slices_N[601]) == ("y.png", '{"camera": "B8"}')


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
    assert refusals(trained) == {f"{wrong}/again.png": f"the same pixels are known as {right}"}


def test_unknown_class_is_refused(trained: Path) -> None:
    drop(trained, "unicorn/a.png", picture(1))
    assert ingest(trained) == Ingested(0, 0, 1)
    assert refusals(trained) == {
        "unicorn/a.png": f"class unicorn is not one of {', '.join(classes(trained))}",
    }


def test_file_that_is_no_image_is_refused(trained: Path) -> None:
    one = classes(trained)[0]
    drop(trained, f"{one}/a.png", picture(1)).write_text("hello")
    settled(trained / "data/incoming" / one / "a.png")
    assert ingest(trained) == Ingested(0, 0, 1)
    assert refusals(trained) == {f"{one}/a.png": "not an image"}


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


@pytest.mark.system
def test_file_dated_in_the_future_lands_all_the_same(trained: Path, repository: Path) -> None:
    file = drop(trained, f"{classes(trained)[0]}/a.png", picture(1))
    os.utime(file, (time.time() + 1e6, time.time() + 1e6))
    assert ingest(trained) == Ingested(1, 0, 0)


def test_file_still_being_written_waits_for_the_next_time(trained: Path) -> None:
    file = drop(trained, f"{classes(trained)[0]}/a.png", picture(1))
    code = "import sys, time\nwith open(sys.argv[1], 'ab', 0) as file:\n  while True: file.write(b'1'); time.sleep(.1)"
    with subprocess.Popen([sys.executable, "-c", code, str(file)]) as writer:
        whole_bytes = file.stat().st_size
        while file.stat().st_size == whole_bytes:
            time.sleep(0.01)
        result = ingest(trained)
        writer.kill()
    assert result.summary == (
        f"Ingested 0 new images.\nLeft in data/incoming: {classes(trained)[0]}/a.png is still being written."
    )
    assert file.is_file()


def test_links_are_not_followed(trained: Path, tmp_path: Path) -> None:
    folder = trained / "data/incoming" / classes(trained)[0]
    folder.mkdir(parents=True)
    Image.fromarray(picture(1)).save(tmp_path / "private.png")
    (folder / "a.png").symlink_to(tmp_path / "private.png")
    link = f"{classes(trained)[0]}/a.png is a link or no regular file"
    assert ingest(trained) == Ingested(0, 0, 0, waiting=(link,))
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
    drop(trained, f"{one}/a.png", picture(1))
    claim_inbox(trained, tuple(classes(trained)), ())
    drop(trained, f"{two}/b.png", picture(2))
    assert ingest(trained) == Ingested(2, 0, 0)
    assert len(landed(trained)["shards"]) == 2
    assert len(images_of(trained)) == 602
    assert list((trained / "work/claims").iterdir()) == []


@pytest.mark.system
def test_claim_that_landed_before_the_kill_is_not_added_again(trained: Path, repository: Path) -> None:
    one, *_ = classes(trained)
    drop(trained, f"{one}/a.png", picture(1))
    claim_inbox(trained, tuple(classes(trained)), ())
    shutil.copytree(trained / "work/claims", trained / "kept")
    ingest(trained)
    before = landed(trained)
    shutil.copytree(trained / "kept", trained / "work/claims", dirs_exist_ok=True)
    assert ingest(trained) == Ingested(0, 1, 0)
    assert landed(trained) == before


def _claimed(project: Path) -> bool:
    return any((project / "work/claims").glob("*/files/*"))


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


# Dies at the n-th change of a file or start of dvc, whatever it is, as if the machine had pulled the plug on it there.
_DIE_AT_CHANGE = """
import os, signal, sys
from pathlib import Path

left, here = int(sys.argv[1]), str(Path.cwd())

def count(event, arguments):
    global left
    writes = event == "open" and str(arguments[0]).startswith(here) and set(arguments[1] or "") & set("wxa")
    if writes or event in ("os.rename", "os.remove", "os.rmdir", "subprocess.Popen"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    from convloop.ingest import ingest

    sys.addaudithook(count)
    ingest(Path.cwd())
"""


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(1800)
def test_ingest_killed_before_any_change_loses_and_doubles_nothing(trained: Path, repository: Path) -> None:
    one, two, three = classes(trained)
    (trained / "die.py").write_text(_DIE_AT_CHANGE)
    shutil.copytree(trained / "data", trained / "kept")
    change = -1
    killed = True
    while killed:
        change += 1
        for folder in ("data", "work", ".dvc/cache"):
            shutil.rmtree(trained / folder, ignore_errors=True)
        shutil.copytree(trained / "kept", trained / "data")
        drop(trained, f"{one}/a.png", picture(1))
        drop(trained, "march/x.png", picture(2))
        drop(trained, "march/y.png", picture(3))
        table(trained, "march/labels.csv", f"x.png,{two}\ny.png,{three}\n")
        drop(trained, "loose.png", picture(4))
        drop(trained, "unicorn/a.png", picture(5))
        done = subprocess.run(
            [sys.executable, "die.py", str(change)], cwd=trained, env=environment(trained), capture_output=True
        )
        killed = done.returncode == -signal.SIGKILL
        assert killed or done.returncode == 0, done.stderr
        ingest(trained)
        images = images_of(trained)
        taken = {
            name: (images.classes[label], images.take(np.array([place]))[0].tobytes())
            for place, (name, label) in enumerate(zip(images.names_N, images.labels_N, strict=True))
            if place >= 600
        }
        assert len(images) == 603, change
        assert taken == {
            f"{one}/a.png": (one, picture(1).tobytes()),
            "march/x.png": (two, picture(2).tobytes()),
            "march/y.png": (three, picture(3).tobytes()),
        }, change
        assert [row["came_as"] for row in read_queue(trained).values()] == ["loose.png"], change
        assert list(refusals(trained)) == ["unicorn/a.png"], change
        assert not has_incoming(trained), change
        assert len(list((trained / "data/landed").glob("*.npy.dvc"))) == len(landed(trained)["shards"]) == 2, change
    assert change > 25


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
