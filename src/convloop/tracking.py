"""One trained model is one MLflow run: opened by train, found again by evaluate and register, rebuilt when lost.

Files come first: what a run shows can always be sent again from work/checkpoints, reports/ and models/ (`publish`).
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convloop import store
from convloop.core.card import read_facts
from convloop.core.folders import write_text
from convloop.core.ranks import is_lead
from convloop.core.state import FINISHED, is_running, left_behind, noted, read_record, status
from convloop.errors import TrackingError
from convloop.publish import publish_record, publish_training
from convloop.runs import MlflowRun, Run, SilentRun
from convloop.sender import HEARTBEAT, BackgroundRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from convloop.config import TrackingParams

COMPLETE = "convloop.complete"
TRAINING = "convloop.training"
REBUILT = "convloop.rebuilt"
_PARENT_PATIENCE_S = 60  # in a thread of its own, where nothing waits for it
_STALE_S = 180  # several missed signs of life, and room for clocks that differ


class Tracker:
    """Open runs in this project's store."""

    def __init__(self, project: Path, settings: "TrackingParams") -> None:
        self._project, self._settings = project, settings

    @contextmanager
    def training_run(self, state: Path) -> Iterator[Run]:
        """Open the run of a model to be trained, or go on with the one noted in `state`; end it with a true status.

        Nothing here waits for a server: what it has not heard at the end is sent later from the files.
        """
        if not is_lead():
            yield SilentRun()
            return
        client = store.client(self._project, self._settings.timeout_s)
        record = read_record(state)
        run = BackgroundRun(lambda: self._open_training(client, state, record))
        with self._true_status(run, state):
            yield run

    def _open_training(self, client: "MlflowClient", state: Path, record: dict[str, Any]) -> MlflowRun:
        with self._answering():
            experiment_id = self._experiment_id(client)
            self._repair(client, [experiment_id])
            note = state / "run_id"
            noted_id = note.read_text().strip() if note.is_file() else None
            run_id = self._find(client, experiment_id, noted_id, record["training_id"])
            if run_id:
                client.update_run(run_id, status="RUNNING")
            else:
                run_id = self._create(client, experiment_id, record["name"], {TRAINING: record["training_id"]})
        write_text(note, run_id)
        return MlflowRun(client, self._project, self._settings.timeout_s, run_id)

    def model_run(self) -> Run:
        """Find the run of models/model; where this store does not know it, or only half, send it from the files.

        Raises:
            TrackingError: the store gives no answer.
        """
        note = read_facts(self._project / "models/model/run.json", "train")
        client = self._connect()
        with self._answering():
            experiment_id = self._experiment_id(client)
            self._repair(client, [experiment_id])
            run_id = self._find(client, experiment_id, note["run_id"], note["training_id"])
            if not run_id:
                tags = {TRAINING: note["training_id"], REBUILT: "true"}
                run_id = self._create(client, experiment_id, note["name"], tags)
        run = MlflowRun(client, self._project, self._settings.timeout_s, run_id)
        if run.tag(COMPLETE) != "true":
            publish_training(run, self._project)
            run.close(FINISHED)
            run.log_tags({COMPLETE: "true"})
        return run

    def send_left_behind(self) -> list[str]:
        """Send every training of this project that MLflow has not heard all of, finished or not; give their runs.

        Raises:
            TrackingError: the store gives no answer.
        """
        client = self._connect()
        sent = []
        for state in left_behind(self._project):
            run = self._open_training(client, state, read_record(state))
            self._send(run, state)
            sent.append(str(run.id))
        return sent

    @contextmanager
    def retraining_run(self, name: str, tags: dict[str, str]) -> Iterator[Run]:
        """Open the run of one retraining, in an experiment of its own so that models stay comparable."""
        client = store.client(self._project, self._settings.timeout_s)

        def open_run() -> MlflowRun:
            with self._answering():
                experiment_id = self._experiment_id(client, "-retraining")
                self._repair(client, [experiment_id])
                run_id = self._create(client, experiment_id, name[:250], tags)
            return MlflowRun(client, self._project, self._settings.timeout_s, run_id)

        run = BackgroundRun(open_run)
        with self._true_status(run):
            yield run

    @contextmanager
    def tuning_run(
        self, folder: Path, name: str, tags: dict[str, str], parent: Run | None = None
    ) -> Iterator[BackgroundRun]:
        """Open the run of a search or of one trial under it, or go on with the one noted in `folder`.

        Tuning has an experiment of its own: a trial is no model that could be registered.
        """
        client = store.client(self._project, self._settings.timeout_s)
        if not (folder / "identity").is_file():
            write_text(folder / "identity", uuid.uuid4().hex)
        identity = (folder / "identity").read_text()

        def open_run() -> MlflowRun:
            give_up_s = time.monotonic() + _PARENT_PATIENCE_S
            while parent is not None and parent.id is None:
                if time.monotonic() > give_up_s:
                    raise TrackingError("MLflow has not made the run above this one yet. Start the server.")
                time.sleep(0.05)
            above = {} if parent is None else {"mlflow.parentRunId": str(parent.id)}
            note = folder / "run_id"
            with self._answering():
                experiment_id = self._experiment_id(client, "-tuning")
                noted_id = note.read_text().strip() if note.is_file() else None
                run_id = self._find(client, experiment_id, noted_id, identity)
                if run_id:
                    client.update_run(run_id, status="RUNNING")
                else:
                    run_id = self._create(client, experiment_id, name[:250], {**tags, **above, TRAINING: identity})
            write_text(note, run_id)
            return MlflowRun(client, self._project, self._settings.timeout_s, run_id)

        run = BackgroundRun(open_run)
        with self._true_status(run):
            yield run

    def repair(self) -> list[str]:
        """End the runs that nobody could end: those of a killed process or a lost machine; give their names.

        Raises:
            TrackingError: the store gives no answer.
        """
        client = self._connect()
        with self._answering():
            found = [
                client.get_experiment_by_name(f"{self._settings.experiment}{end}")
                for end in ("", "-retraining", "-tuning")
            ]
            return self._repair(client, [experiment.experiment_id for experiment in found if experiment])

    def _repair(self, client: "MlflowClient", experiment_ids: list[str]) -> list[str]:
        repaired = []
        for found in client.search_runs(experiment_ids, "attributes.status = 'RUNNING'") if experiment_ids else []:
            run = MlflowRun(client, self._project, self._settings.timeout_s, found.info.run_id)
            state = noted(self._project, found.info.run_id)
            beat_s = float(found.data.tags.get(HEARTBEAT, "inf"))
            if state is not None and not is_running(state):
                self._send(run, state)
            elif state is None and time.time() - beat_s > _STALE_S:
                run.close("KILLED", int(beat_s * 1000))
            else:
                continue
            run.log_tags({"convloop.repaired": "the process ended without a word"})
            repaired.append(str(found.info.run_name))
        return repaired

    def _send(self, run: MlflowRun, state: Path) -> None:
        """Send what the files of a training say that is not running."""
        publish_record(run, state)
        run.close(status(state) or "KILLED", _last_sign_ms(state))
        (state / "sent").touch()

    def _find(self, client: "MlflowClient", experiment_id: str, noted_id: str | None, training_id: str) -> str | None:
        """Look a run up by its id, else by its training: the answer that would have told us the id may have been lost."""
        from mlflow.exceptions import MlflowException

        if noted_id:
            try:
                if client.get_run(noted_id).info.lifecycle_stage == "active":
                    return noted_id
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        found = client.search_runs([experiment_id], f"tags.`{TRAINING}` = '{training_id}'", max_results=1)
        return str(found[0].info.run_id) if found else None

    def _create(self, client: "MlflowClient", experiment_id: str, name: str, tags: dict[str, str]) -> str:
        first_tags = {"mlflow.user": os.environ.get("USER", "unknown"), "mlflow.source.name": "convloop"}
        return str(client.create_run(experiment_id, tags=first_tags | tags, run_name=name).info.run_id)

    @contextmanager
    def _true_status(self, run: BackgroundRun, state: Path | None = None) -> Iterator[None]:
        """End a run as FINISHED, FAILED or KILLED, as it was; on disk first."""
        ended = "FAILED"
        try:
            yield
            ended = FINISHED
        except (KeyboardInterrupt, SystemExit):
            ended = "KILLED"
            raise
        finally:
            if state is not None:
                write_text(state / "status", ended)
            run.close(ended)
            if state is not None and ended == FINISHED:
                publish_training(run, self._project)
                run.log_tags({COMPLETE: "true"})
            if run.wait(2 * self._settings.timeout_s) and state is not None:
                (state / "sent").touch()

    def _connect(self) -> "MlflowClient":
        return store.connect(self._project, self._settings.timeout_s)

    def _answering(self) -> AbstractContextManager[None]:
        return store.answering(self._project, self._settings.timeout_s)

    def _experiment_id(self, client: "MlflowClient", end: str = "") -> str:
        return _experiment_id(client, self._project, f"{self._settings.experiment}{end}")


def _last_sign_ms(state: Path) -> int:
    """Tell when a training that has ended was last heard of: what it wrote last."""
    return max(file.stat().st_mtime_ns for file in state.iterdir()) // 1_000_000


def find_experiment_id(client: "MlflowClient", name: str) -> str:
    """Give the id of the experiment that a user wants to see, or that of MLflow's own where nothing ran yet."""
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id) if found else "0"


def _experiment_id(client: "MlflowClient", project: Path, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        local = store.tracking_uri(project).startswith("sqlite")
        place = (store.folder(project) / "artifacts").as_uri() if local else None
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException:  # another process was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"The experiment {name} is deleted. Restore it: mlflow experiments restore -x {found.experiment_id}, "
            "or set tracking.experiment to another name."
        )
    return str(found.experiment_id)
