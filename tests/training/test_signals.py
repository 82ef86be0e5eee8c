"""A lost rank ends the lead, also where the lead would wait for it for ever."""

import subprocess
import sys

import pytest

_LEAD = """
import subprocess, sys, time
from convloop.training.signals import StopSignals
stop = StopSignals()
stop._ranks = [subprocess.Popen(["sleep", "600"]), subprocess.Popen(["sh", "-c", sys.argv[1]])]
print(stop._ranks[0].pid, flush=True)
import threading
threading.Thread(target=stop.watch, daemon=True).start()
time.sleep(float(sys.argv[2]))
stop.give_back()
[rank.kill() for rank in stop._ranks]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("death", "how"), [("kill -9 $$", "was ended by SIGKILL"), ("exit 3", "ended with exit code 3")]
)
def test_a_lead_that_waits_for_a_lost_rank_is_ended_with_its_name(death: str, how: str) -> None:
    done = subprocess.run([sys.executable, "-c", _LEAD, death, "60"], capture_output=True, text=True, check=False)

    assert done.returncode == 6
    assert done.stderr == (
        f"convloop: Rank 2 of 3 {how}, so the others cannot go on. What it said itself is above; SIGKILL without a word "
        "is often too little memory. The same command goes on from the last state that was written.\n"
    )


def test_ranks_that_end_well_leave_the_lead_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _LEAD, "exit 0", "2"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
