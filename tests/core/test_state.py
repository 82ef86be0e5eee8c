"""What a training leaves on disk, for itself and for MLflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convloop.core.state import (
    FOLDER,
    begin_record,
    is_running,
    left_behind,
    make_room,
    noted,
    opened,
    read_record,
    state_folder,
    status,
    unfinished,
)
from convloop.errors import BusyError


def ended(state: Path, how: str, *, sent: bool = True) -> None:
    """Leave a training as one that ended."""
    with opened(state):
        begin_record(state, {"name": state.name})
        torch.save({"step": torch.zeros(1)}, state / "last.ckpt")
    (state / "status").write_text(how)
    if sent:
        (state / "sent").touch()


def test_folders_differ_when_anything_that_decides_the_outcome_does(tmp_path: Path) -> None:
    facts = [{"train": {"lr": 1}, "data": "a"}, {"train": {"lr": 2}, "data": "a"}, {"train": {"lr": 1}, "data": "b"}]

    assert len({state_folder(tmp_path, **fact) for fact in facts}) == 3


def test_a_stopped_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    ended(tmp_path / "state", "KILLED")

    with opened(tmp_path / "state") as resume_from:
        assert resume_from == tmp_path / "state/last.ckpt"


def test_an_unfinished_training_that_starts_afresh_is_kept_beside_with_its_weights(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ended(state, "KILLED")
    first = read_record(state)["training_id"]

    with opened(state, fresh=True) as resume_from:
        assert resume_from is None
        assert begin_record(state, {})["training_id"] != first
        aside = tmp_path / f"state-{first[:8]}"
        assert sorted(entry.name for entry in aside.iterdir()) == ["last.ckpt", "record.json", "sent", "status"]


def test_a_fresh_start_of_what_never_ran_is_a_start(tmp_path: Path) -> None:
    with opened(tmp_path / "state", fresh=True) as resume_from:
        assert resume_from is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_damaged_state_is_put_aside_for_the_one_before(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ended(state, "KILLED")
    make_room(state)
    (state / "last.ckpt").write_bytes((state / "before.ckpt").read_bytes()[:-1])

    with opened(state) as resume_from:
        assert resume_from == unfinished(state) == state / "before.ckpt"
        assert (state / "last.ckpt.damaged").is_file()
        make_room(state)
        assert (state / "before.ckpt").is_file()


def test_a_kill_while_a_state_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    ended(tmp_path / "state", "KILLED")
    make_room(tmp_path / "state")
    (tmp_path / "state/last.tmp.ckpt").write_bytes(b"half")

    with opened(tmp_path / "state") as resume_from:
        assert resume_from == tmp_path / "state/before.ckpt"
        assert list((tmp_path / "state").glob("*.damaged")) == []


def test_a_changed_byte_anywhere_is_found_or_changes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    whole = {"numbers": torch.arange(500.0), "step": 7}
    torch.save(whole, state / "last.ckpt")
    sound = (state / "last.ckpt").read_bytes()
    found = 0
    for place in range(0, len(sound), 3):
        (state / "last.ckpt").write_bytes(sound[:place] + bytes([sound[place] ^ 0x24]) + sound[place + 1 :])
        if unfinished(state) is None:
            found += 1
        else:
            loaded = torch.load(state / "last.ckpt", weights_only=True)
            torch.testing.assert_close(loaded, whole, rtol=0, atol=0)
    assert found > 2000 / 3  # the numbers at least


def test_a_finished_training_starts_afresh_with_another_id(tmp_path: Path) -> None:
    ended(tmp_path / "state", "FINISHED")
    before = read_record(tmp_path / "state")["training_id"]

    with opened(tmp_path / "state") as resume_from:
        assert resume_from is None
        assert begin_record(tmp_path / "state", {})["training_id"] != before


def test_a_finished_training_that_mlflow_has_not_heard_of_is_kept_when_it_is_run_again(tmp_path: Path) -> None:
    state = tmp_path / FOLDER / "state"
    ended(state, "FINISHED", sent=False)
    first = read_record(state)["training_id"]

    with opened(state):
        begin_record(state, {})
        (aside,) = left_behind(tmp_path)
        assert (read_record(aside)["training_id"], status(aside)) == (first, "FINISHED")
        assert read_record(state)["training_id"] != first


def test_a_kill_while_a_finished_training_is_put_aside_is_made_good_by_the_next_start(tmp_path: Path) -> None:
    state = tmp_path / FOLDER / "state"
    ended(state, "FINISHED", sent=False)
    first = read_record(state)["training_id"]
    (state.with_name(f"{state.name}-{first[:8]}")).mkdir()
    (state / "last.ckpt").unlink()

    with opened(state) as resume_from:
        assert resume_from is None
        assert [read_record(aside)["training_id"] for aside in left_behind(tmp_path)] == [first]


def test_a_training_that_goes_on_keeps_its_id_and_first_record(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    first = begin_record(tmp_path / "state", {"name": "a"})

    assert begin_record(tmp_path / "state", {"name": "b"}) == first


def test_two_processes_never_run_the_same_training(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with opened(state), pytest.raises(BusyError) as error, opened(state):
        pass

    assert str(error.value) == (
        f"This very training is running already; it holds {state}. Wait for it, or stop it first."
    )


def test_a_killed_training_is_not_running(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from convloop.core.state import opened\n"
    script += "with opened(Path(sys.argv[1])): print('in', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, tmp_path / "state"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert is_running(tmp_path / "state")
        process.kill()
        process.wait()

    assert not is_running(tmp_path / "state")


def test_only_the_five_newest_sent_trainings_stay(tmp_path: Path) -> None:
    for number in range(8):
        ended(tmp_path / f"state{number}", "FINISHED")
        os.utime(tmp_path / f"state{number}", (number, number))

    with opened(tmp_path / "new"):
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["new", "state4", "state5", "state6", "state7"]


def test_an_old_training_that_mlflow_has_not_heard_keeps_all_but_its_weights(tmp_path: Path) -> None:
    for number in range(6):
        ended(tmp_path / f"state{number}", "FINISHED", sent=number > 0)
        os.utime(tmp_path / f"state{number}", (number, number))

    with opened(tmp_path / "new"):
        assert sorted(entry.name for entry in (tmp_path / "state0").iterdir()) == ["record.json", "status"]


def test_left_behind_is_what_was_not_sent_and_is_not_running(tmp_path: Path) -> None:
    ended(tmp_path / FOLDER / "sent", "FINISHED")
    ended(tmp_path / FOLDER / "unsent", "KILLED", sent=False)
    ended(tmp_path / FOLDER / "running", "KILLED", sent=False)

    with opened(tmp_path / FOLDER / "running"):
        assert left_behind(tmp_path) == [tmp_path / FOLDER / "unsent"]


def test_a_project_that_never_trained_has_nothing_left_behind(tmp_path: Path) -> None:
    assert left_behind(tmp_path) == []


def test_the_training_of_a_run_is_found_by_its_note(tmp_path: Path) -> None:
    ended(tmp_path / FOLDER / "one", "KILLED")
    (tmp_path / FOLDER / "one/run_id").write_text("abc")

    assert noted(tmp_path, "abc") == tmp_path / FOLDER / "one"
    assert noted(tmp_path, "def") is None
