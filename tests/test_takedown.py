"""Takedown: what is named leaves every shard, its old files and DVC's cache, and does not come back."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convloop.config import Params
from convloop.core.images import Images, content_hashes, open_images, write_shard
from convloop.core.takedown_list import read_takedown
from convloop.errors import DataError
from convloop.ingest import Ingested, ingest
from convloop.pipeline import STAGES
from convloop.takedown import take_down
from convloop.to_label import read_queue
from convloop.tracking import Tracker
from tests.conftest import Convloop, environment
from tests.core.pictures import batch_of
from tests.s3_server import BUCKET, client, s3_served
from tests.test_ingest import classes, drop, images_of, landed, picture, refusals, table


def run_stage(name: str, project: Path, params: Params) -> None:
    STAGES[name].run(params, project, Tracker(project, params.tracking))


def deliver(project: Path) -> None:
    """Ingest three images from a vendor and two from a table, in two shards."""
    one, two, _ = classes(project)
    for seed in (1, 2, 3):
        drop(project, f"vendor/{one}/{seed}.png", picture(seed))
    for seed in (4, 5):
        drop(project, f"{seed}.png", picture(seed))
    table(project, "march.csv", f"4.png,{two}\n5.png,{two}\n")
    assert ingest(project) == Ingested(5, 0, 0)


def pixels_found(project: Path, pixels_HWC: NDArray[np.uint8]) -> list[str]:
    """Name every file of the project, DVC's cache included, that holds these pixels as they are."""
    sought = pixels_HWC.tobytes()
    files = [file for file in project.rglob("*") if file.is_file() and sought in file.read_bytes()]
    return sorted(file.relative_to(project).as_posix() for file in files)


def names(images: Images) -> list[str]:
    found: list[str] = images.names_N.tolist()
    return found


def put_in_raw(project: Path, pixels_HWC: NDArray[np.uint8], name: str) -> None:
    """Add a shard of one named image to data/raw, as a source that names its images would."""
    folder = project / "data/raw"
    entry = write_shard(folder, "shard-00001", replace(batch_of(pixels_HWC[None], [0]), names_N=np.array([name])))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"].append(entry)
    (folder / "manifest.json").write_text(json.dumps(manifest))


# Landed


@pytest.mark.system
def test_source_leaves_no_pixel_in_shards_or_cache(trained: Path, repository: Path) -> None:
    deliver(trained)
    assert len(pixels_found(trained, picture(2))) == 2  # the shard and its object in the cache
    result = take_down(trained, ["vendor"])
    assert (result.raw_count, result.landed_count, result.queued_count) == (0, 3, 0)
    assert [pixels_found(trained, picture(seed)) for seed in (1, 2, 3)] == [[], [], []]
    assert names(images_of(trained))[600:] == ["4.png", "5.png"]
    assert [shard["source"] for shard in landed(trained)["shards"]] == ["march.csv"]
    assert len(list((trained / "data/landed").iterdir())) == 2 + 2 + 2  # shard, its pointers, manifest and .gitignore


@pytest.mark.system
def test_name_leaves_the_rest_of_its_shard_as_it_was(trained: Path, repository: Path) -> None:
    deliver(trained)
    (march, vendor) = landed(trained)["shards"]
    name = f"vendor/{classes(trained)[0]}/2.png"
    before = images_of(trained)
    result = take_down(trained, [name])
    after = images_of(trained)
    assert (result.landed_count, result.object_count) == (1, 2)
    assert pixels_found(trained, picture(2)) == []
    assert names(after) == [other for other in names(before) if other != name]
    kept = np.array([place for place, other in enumerate(names(before)) if other != name])
    np.testing.assert_array_equal(after.labels_N, before.labels_N[kept])
    np.testing.assert_array_equal(after.take(np.arange(600, 604)), [picture(seed) for seed in (4, 5, 1, 3)])
    unchanged, rewritten = landed(trained)["shards"]
    assert unchanged == march
    assert rewritten["name"] != vendor["name"]
    assert rewritten["name"].rpartition("-")[0] == vendor["name"].rpartition("-")[0]
    changed = {"name", "image_count", "images_sha256", "facts_sha256"}
    assert {key: value for key, value in rewritten.items() if key not in changed} == {
        **{key: value for key, value in vendor.items() if key not in changed},
        "taken_down_count": 1,
    }


@pytest.mark.system
def test_dvc_finds_the_rewritten_shards_whole(trained: Path, dvc: Convloop) -> None:
    deliver(trained)
    take_down(trained, [f"vendor/{classes(trained)[0]}/2.png"])
    pointers = sorted(str(file) for file in (trained / "data/landed").glob("*.dvc"))
    status = dvc("status", *pointers)
    assert (len(pointers), status.returncode, status.stdout) == (4, 0, "Data and pipelines are up to date.\n")
    for pointer in pointers:
        Path(pointer.removesuffix(".dvc")).unlink()
    assert dvc("checkout", *pointers).returncode == 0
    assert len(images_of(trained)) == 604
    ignored = (trained / "data/landed/.gitignore").read_text().split()
    assert sorted(ignored) == sorted(f"/{Path(pointer).name.removesuffix('.dvc')}" for pointer in pointers)


@pytest.mark.system
def test_taken_down_images_do_not_land_again(trained: Path, repository: Path) -> None:
    deliver(trained)
    take_down(trained, ["4.png"])
    day = read_takedown(trained)[0].utc[:10]
    drop(trained, f"{classes(trained)[1]}/other-name.png", picture(4))
    drop(trained, "loose.png", picture(4))
    assert ingest(trained) == Ingested(0, 0, 2)
    assert refusals(trained) == {
        f"{classes(trained)[1]}/other-name.png": f"taken down on {day}",
        "loose.png": f"taken down on {day}",
    }


@pytest.mark.system
def test_no_pixel_is_left_on_any_remote(trained: Path, dvc: Convloop, tmp_path: Path) -> None:
    for name in ("shelf", "attic"):
        dvc("remote", "add", name, str(tmp_path / name))
    dvc("remote", "default", "shelf")
    deliver(trained)
    dvc("push", "--remote", "attic", *(str(file) for file in (trained / "data/landed").glob("*.dvc")))
    assert len(pixels_found(tmp_path, picture(2))) == 4  # shard, cache, shelf and attic
    result = take_down(trained, [f"vendor/{classes(trained)[0]}/2.png"])
    assert pixels_found(tmp_path, picture(2)) == []
    assert len(pixels_found(tmp_path / "shelf", picture(4))) == 1
    assert (result.object_count, result.remotes) == (6, ("attic", "shelf"))
    assert result.summary.splitlines()[3] == (
        "Old copies:  deleted 6 objects of DVC, from its cache and remote attic and remote shelf;"
    )


@pytest.mark.system
def test_no_pixel_is_left_on_a_remote_on_s3(trained: Path, dvc: Convloop, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_served() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        dvc("remote", "add", "--default", "cloud", f"s3://{BUCKET}/store")
        deliver(trained)
        shelf = client(variables)

        def objects() -> list[bytes]:
            listed = shelf.list_objects_v2(Bucket=BUCKET).get("Contents", [])
            return [shelf.get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read() for one in listed]

        assert [picture(2).tobytes() in content for content in objects()].count(True) == 1
        result = take_down(trained, [f"vendor/{classes(trained)[0]}/2.png"])
        assert (result.object_count, result.remotes) == (4, ("cloud",))
        assert not any(picture(2).tobytes() in content for content in objects())
        assert [picture(3).tobytes() in content for content in objects()].count(True) == 1


@pytest.mark.system
def test_remote_that_cannot_be_reached_is_named_and_cleared_by_the_next_try(
    trained: Path, dvc: Convloop, convloop: Convloop, tmp_path: Path
) -> None:
    dvc("remote", "add", "--default", "shelf", str(tmp_path / "shelf"))
    deliver(trained)
    (tmp_path / "shelf").rename(tmp_path / "unmounted")
    answer = convloop("takedown", "march.csv")
    assert (answer.returncode, answer.stdout) == (8, "")
    assert answer.stderr == (
        "convloop: The pictures are out of data/landed and listed in data/takedown.csv, but copies of them may be left on "
        f"remote shelf ({tmp_path}/shelf): no such folder (mount it, or make it where nothing was ever pushed). "
        "Mend it, then type the same command again: it goes on.\n"
    )
    assert pixels_found(trained, picture(4)) == []
    assert len(images_of(trained)) == 603
    (tmp_path / "unmounted").rename(tmp_path / "shelf")
    assert len(pixels_found(tmp_path, picture(4))) == 1
    assert convloop("takedown", "march.csv").returncode == 0
    assert pixels_found(tmp_path, picture(4)) == []
    assert len(list((trained / "data/landed").iterdir())) == 2 + 2 + 2


@pytest.mark.system
def test_old_data_raw_leaves_cache_and_remote_but_other_versions_stay(
    trained: Path, dvc: Convloop, tmp_path: Path
) -> None:
    dvc("remote", "add", "--default", "shelf", str(tmp_path / "shelf"))
    put_in_raw(trained, picture(1), "old/a.png")
    assert dvc("commit", "--force", "generate").returncode == 0
    put_in_raw(trained, picture(2), "old/b.png")
    assert dvc("commit", "--force", "generate").returncode == 0
    assert dvc("push", "--all-commits", "generate").returncode == 0
    shutil.copytree(
        trained / ".dvc/cache/files", tmp_path / "shelf/files", dirs_exist_ok=True
    )  # the first version, too
    assert len(pixels_found(tmp_path, picture(1))) == 2
    assert len(pixels_found(tmp_path, picture(2))) == 3
    take_down(trained, ["old/b.png"])
    assert pixels_found(tmp_path, picture(2)) == ["project/data/raw/shard-00001.images.npy"]  # until the next generate
    assert len(pixels_found(tmp_path, picture(1))) == 2


@pytest.mark.system
def test_folder_of_names_ends_in_a_slash(trained: Path, repository: Path) -> None:
    deliver(trained)
    assert take_down(trained, [f"vendor/{classes(trained)[0]}/"]).landed_count == 3


@pytest.mark.system
def test_damaged_shard_stops_a_takedown_before_it_changes_anything(trained: Path, repository: Path) -> None:
    deliver(trained)
    (shard, _) = landed(trained)["shards"]
    file = trained / f"data/landed/{shard['name']}.images.npy"
    file.chmod(0o644)
    file.write_bytes(b"nothing")
    before = landed(trained)
    with pytest.raises(DataError, match=rf"^{file} is damaged: its sha256 is "):
        take_down(trained, ["vendor"])
    assert landed(trained) == before
    assert read_takedown(trained) == ()


# Dies at the n-th change of a file or start of dvc.
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

from convloop.takedown import take_down

sys.addaudithook(count)
take_down(Path.cwd(), sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.timeout(1800)
def test_takedown_killed_before_any_change_is_finished_by_typing_it_again(trained: Path, repository: Path) -> None:
    deliver(trained)
    name = f"vendor/{classes(trained)[0]}/2.png"
    (trained / "die.py").write_text(_DIE_AT_CHANGE)
    for folder in ("data", ".dvc/cache"):
        shutil.copytree(trained / folder, trained.parent / "kept" / folder)
    change, killed = -1, True
    while killed:
        change += 1
        for folder in ("data", ".dvc/cache"):
            shutil.rmtree(trained / folder)
            shutil.copytree(trained.parent / "kept" / folder, trained / folder)
        words = [sys.executable, "die.py", str(change), name, "march.csv"]
        done = subprocess.run(words, cwd=trained, env=environment(trained), capture_output=True, check=False)
        killed = done.returncode == -signal.SIGKILL
        assert killed or done.returncode == 0, done.stderr
        take_down(trained, [name, "march.csv"])
        assert [pixels_found(trained, picture(seed)) for seed in (2, 4, 5)] == [[], [], []], change
        assert len(images_of(trained)) == 602, change
        assert len(read_takedown(trained)) == 3, change
        assert len(list((trained / "data/landed").glob("*.dvc"))) == 2, change
        assert len(list((trained / "data/landed").glob("*.np[yz]"))) == 2, change
    assert change > 10


# Raw


def test_image_of_the_source_is_left_out_by_the_next_generate(
    trained: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    images = images_of(trained)
    (pixels_HWC,) = images.take(np.array([5]))
    result = take_down(trained, [names(images)[5]])
    assert (result.raw_count, result.landed_count) == (1, 0)
    assert result.summary.splitlines()[0] == (
        "Took down 1 images of data/raw, 0 of data/landed, 0 of data/to_label; data/takedown.csv lists them."
    )
    run_stage("generate", trained, params)
    assert capsys.readouterr().out == (
        "data/raw holds 599 images of 3 classes from synthetic.\nLeft out 1 images of data/takedown.csv.\n"
    )
    assert len(images_of(trained)) == 599
    assert content_hashes(pixels_HWC[None])[0] not in images_of(trained).content_N


def test_prepare_lets_no_image_through_that_was_taken_down(trained: Path, params: Params) -> None:
    name = names(images_of(trained))[5]
    take_down(trained, [name])
    with pytest.raises(DataError) as raised:
        run_stage("prepare", trained, params)
    assert str(raised.value) == (
        f"data/raw and data/landed hold 1 images of data/takedown.csv, such as {name}. "
        f'Leave them out: dvc repro generate, or convloop takedown "{name}" where it has landed.'
    )


@pytest.mark.system
def test_twins_go_together(trained: Path, repository: Path) -> None:
    one, *_ = classes(trained)
    drop(trained, f"{one}/a.png", picture(1))
    ingest(trained)
    put_in_raw(trained, picture(1), "old/twin.png")
    result = take_down(trained, ["old/twin.png"])
    assert (result.raw_count, result.landed_count) == (1, 1)
    assert [(entry.folder, entry.source, entry.name) for entry in read_takedown(trained)] == [
        ("raw", "synthetic", "old/twin.png"),
        ("landed", "incoming", f"{one}/a.png"),
    ]
    assert pixels_found(trained, picture(1)) == ["data/raw/shard-00001.images.npy"]


@pytest.mark.system
def test_name_of_one_folder_spares_the_other(trained: Path, repository: Path) -> None:
    one, *_ = classes(trained)
    drop(trained, f"{one}/a.png", picture(1))
    ingest(trained)
    put_in_raw(trained, picture(2), f"{one}/a.png")
    result = take_down(trained, [f"data/raw/{one}/a.png"])
    assert (result.raw_count, result.landed_count) == (1, 0)


# The rest


def test_images_in_the_queue_go_too(trained: Path) -> None:
    drop(trained, "loose.png", picture(1))
    drop(trained, "vendor/unlabelled/b.png", picture(2))
    drop(trained, "kept.png", picture(3))
    ingest(trained)
    result = take_down(trained, ["loose.png", "vendor"])
    assert result.queued_count == 2
    (path,) = read_queue(trained)
    assert sorted(file.name for file in (trained / "data/to_label").iterdir()) == sorted([path, "labels.csv"])


def test_unknown_name_changes_nothing(trained: Path) -> None:
    with pytest.raises(DataError) as raised:
        take_down(trained, [names(images_of(trained))[5], "nobody"])
    assert str(raised.value) == (
        'No image and no source is called "nobody". Sources of data/landed: none. '
        f"Names are such as {names(images_of(trained))[0]}; a folder of names ends in /."
    )
    assert read_takedown(trained) == ()


def test_takedown_by_hand_says_what_to_do_next(trained: Path, convloop: Convloop) -> None:
    name = names(images_of(trained))[5]
    answer = convloop("takedown", name)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.splitlines()[:3] == [
        "Took down 1 images of data/raw, 0 of data/landed, 0 of data/to_label; data/takedown.csv lists them.",
        "Keep it so:  git add data/takedown.csv data/landed && git commit",
        "Rebuild:     dvc repro (data/raw holds them until then, and so does what the champion has learned)",
    ]


@pytest.mark.slow
@pytest.mark.system
def test_dvc_repro_after_a_takedown_makes_everything_without_the_image(trained: Path, dvc: Convloop) -> None:
    assert dvc("repro", "prepare").returncode == 0
    name = names(open_images(trained / "data/raw"))[5]
    (pixels_HWC,) = images_of(trained).take(np.array([5]))
    take_down(trained, [name])
    assert "data/takedown.csv" in dvc("status", "generate").stdout
    answer = dvc("repro", "prepare")
    assert answer.returncode == 0, answer.stderr
    assert len(images_of(trained)) == 599
    assert pixels_found(trained, pixels_HWC) == []
