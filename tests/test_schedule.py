"""The schedule: a clear word for what is no cron expression, and one retraining for each slot."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convloop.errors import ParamsError
from convloop.ledger import Ledger
from convloop.schedule import schedule
from tests.conftest import Convloop, environment
from tests.test_retrain import left_running, runs_of


@pytest.mark.parametrize(
    ("cron", "problem"),
    [
        ("every night", "Wrong number of fields"),
        ("", "Wrong number of fields"),
        ("0 3 * *", "Wrong number of fields"),
        ("0 0 3 * * *", "Wrong number of fields"),
        ("61 * * * *", "Bad minute"),
        ("0 25 * * *", "Bad hour"),
        ("0 0 30 2 *", "Bad day-of-month"),
        ("0 0 * * FRY", "Bad day-of-week"),
    ],
)
def test_what_is_no_cron_expression_is_refused(tmp_path: Path, cron: str, problem: str) -> None:
    with pytest.raises(ParamsError) as raised:
        schedule(tmp_path, cron)
    assert str(raised.value) == (
        f'--cron is "{cron}": {problem}. Give five fields, such as "0 3 * * *" for every night at three.'
    )


def test_bad_cron_ends_with_2(convloop: Convloop) -> None:
    answer = convloop("schedule", "--cron", "61 * * * *")
    assert (answer.returncode, answer.stdout, answer.stderr) == (
        2,
        "",
        'convloop: --cron is "61 * * * *": Bad minute. '
        'Give five fields, such as "0 3 * * *" for every night at three.\n',
    )


def _start(project: Path, cron: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "convloop", "schedule", "--cron", cron],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _next_slot(process: "subprocess.Popen[str]") -> str:
    """Wait until a scheduler says what it waits for, and give that as the ledger writes it."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Next retraining: "):
            date, clock, _ = line.removeprefix("Next retraining: ").split()
            return f"{date}T{clock}Z"
    assert process.stderr is not None
    raise AssertionError(f"the scheduler ended: {process.stderr.read()}")


@pytest.mark.system
@pytest.mark.slow
def test_two_schedulers_retrain_once_for_each_slot(trained: Path, repository: Path, dvc: Convloop) -> None:
    """They wake in the same minute; whoever comes second finds the lock held or the slot's row."""
    assert dvc("commit", "--force", "generate", "prepare", "train", "evaluate").returncode == 0
    started = [_start(repository, "* * * * *") for _ in range(2)]
    slots = [_next_slot(process) for process in started]
    common = max(slots)
    for process, slot in zip(started, slots, strict=True):
        while slot <= common:
            slot = _next_slot(process)
    for process in started:
        process.send_signal(signal.SIGTERM)
    ends = [(process.communicate(), process.returncode)[1] for process in started]
    assert [row.slot for row in Ledger(repository).rows()].count(common) == 1
    reasons = [run.data.tags["retraining.reason"] for run in runs_of(repository, "small-retraining")]
    assert reasons.count(f"cron slot {common}") == 1
    assert ends == [143, 143]
    assert left_running(repository) == {}


@pytest.mark.system
@pytest.mark.slow
def test_stopping_the_schedule_stops_the_retraining_that_runs(trained: Path, repository: Path, dvc: Convloop) -> None:
    assert dvc("commit", "--force", "generate", "prepare", "train", "evaluate").returncode == 0
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 2", "epochs: 9999"))
    process = _start(repository, "* * * * *")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Retraining 1: "):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert left_running(repository) == {}
    assert process.returncode == 143
    assert [row.status for row in Ledger(repository).rows()] == ["stopped"]
