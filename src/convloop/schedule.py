"""Call retrain at the times of a cron expression, in UTC, so that no clock change skips or doubles a slot."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from convloop.errors import ParamsError
from convloop.processes import run_convloop

_FIELD_COUNT = 5  # a sixth would be seconds, but slots are told apart by their minute
_NAP_S = 30.0  # wake now and then, so that a suspended machine notices that its slot has passed


def schedule(project: Path, cron: str) -> int:
    """Retrain at each slot until stopped; several schedulers of one project still retrain once for each slot.

    Every retraining is a process of its own, so a failure, or a change of code, does not end the schedule.

    Raises:
        ParamsError: the expression is not a cron expression.
    """
    from cronsim import CronSim, CronSimError

    try:
        if len(cron.split()) != _FIELD_COUNT:
            raise CronSimError("Wrong number of fields")
        slots = CronSim(cron, datetime.now(UTC))
    except CronSimError as error:
        raise ParamsError(
            f'--cron is "{cron}": {error}. Give five fields, such as "0 3 * * *" for every night at three.'
        ) from None
    while True:
        slot = next(slots)
        print(f"Next retraining: {slot:%Y-%m-%d %H:%M} UTC.", flush=True)
        _wait_until(slot)
        exit_code = run_convloop("retrain", "--slot", slot.strftime("%Y-%m-%dT%H:%MZ"))
        if exit_code:
            print(f"The retraining of {slot:%Y-%m-%d %H:%M} UTC ended with {exit_code}.", file=sys.stderr, flush=True)
        # Slots that passed meanwhile are one: the newest data are in already.
        slots = CronSim(cron, datetime.now(UTC))


def _wait_until(slot: datetime) -> None:
    while (left_s := (slot - datetime.now(UTC)).total_seconds()) > 0:
        time.sleep(min(left_s, _NAP_S))
