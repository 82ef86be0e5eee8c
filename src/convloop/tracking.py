"""One trained model is one MLflow run: opened by train, found again by evaluate and register, rebuilt when lost.

Files come first: what a run shows can always be sent again from reports/ and models/ (`reporting.publish`).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from convloop import store
from convloop.core.card import read_card, read_facts
from convloop.core.ranks import is_lead
from convloop.errors import TrackingError
from convloop.runs import MlflowRun, PatientRun, Run, SilentRun, say_behind

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from convloop.config import TrackingParams

COMPLETE = "convloop.complete"
DIGEST = "convloop.model_digest"


class Tracker:
    """Open runs in this project's store."""

    def __init__(self, project: Path, settings: "TrackingParams", publish: Callable[[Run, Path], None]) -> None:
        """Take `publish`, which sends all that the files of a training say into a run."""
        self._project, self._settings, self._publish = project, settings, publish

    @contextmanager
    def training_run(self, state: Path, name: str) -> Iterator[Run]:
        """Open the run of a model to be trained, or go on with the one noted in `state`; end it with a true status.

        When the store gives no answer, training goes on and the run is built later from the files.
        """
        if not is_lead():
            yield SilentRun()
            return
        run = self._open_for_training(state / "run_id", name)
        if run is None:
            yield SilentRun()
            return
        with _true_status(run):
            yield run
            self._publish(run, self._project)
            run.log_tags({COMPLETE: "true"})

    def _open_for_training(self, note: Path, name: str) -> PatientRun | None:
        try:
            client = store.connect(self._project, self._settings.timeout_s)
            with store.answering(self._project, self._settings.timeout_s):
                experiment_id = _experiment_id(client, self._project, self._settings.experiment)
                run_id = note.read_text().strip() if note.is_file() else ""
                if run_id and self._is_known(client, run_id):
                    client.update_run(run_id, status="RUNNING")
                else:
                    run_id = client.create_run(experiment_id, tags=self._first_tags(), run_name=name).info.run_id
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(run_id)
            return PatientRun(MlflowRun(client, self._project, self._settings.timeout_s, run_id))
        except TrackingError as error:
            say_behind(error)
            return None

    def model_run(self) -> Run:
        """Find the run of models/model; where this store does not know it, or only half, send it from the files.

        Raises:
            TrackingError: the store gives no answer.
        """
        timeout_s = self._settings.timeout_s
        package = self._project / "models/model"
        digest = read_card(package).digest
        note = read_facts(package / "run.json", "train")
        client = store.connect(self._project, timeout_s)
        with store.answering(self._project, timeout_s):
            experiment_id = _experiment_id(client, self._project, self._settings.experiment)
            run_id = note["run_id"]
            if not (run_id and self._is_known(client, run_id)):
                found = client.search_runs([experiment_id], f"tags.`{DIGEST}` = '{digest}'", max_results=1)
                if found:
                    run_id = found[0].info.run_id
                else:
                    tags = {**self._first_tags(), "convloop.rebuilt": "true"}
                    run_id = client.create_run(experiment_id, tags=tags, run_name=note["name"]).info.run_id
        run = MlflowRun(client, self._project, timeout_s, str(run_id))
        if run.tag(COMPLETE) != "true":
            self._publish(run, self._project)
            run.log_tags({COMPLETE: "true"})
            run.close("FINISHED")
        return run

    @contextmanager
    def retraining_run(self, name: str, tags: dict[str, str]) -> Iterator[Run]:
        """Open the run of one retraining, in an experiment of its own so that models stay comparable."""
        try:
            client = store.connect(self._project, self._settings.timeout_s)
            with store.answering(self._project, self._settings.timeout_s):
                experiment_id = _experiment_id(client, self._project, f"{self._settings.experiment}-retraining")
                all_tags = {**self._first_tags(), **tags}
                run_id = client.create_run(experiment_id, tags=all_tags, run_name=name[:250]).info.run_id
        except TrackingError as error:
            say_behind(error)
            yield SilentRun()
            return
        run = PatientRun(MlflowRun(client, self._project, self._settings.timeout_s, run_id))
        with _true_status(run):
            yield run

    def _is_known(self, client: "MlflowClient", run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return bool(client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _first_tags(self) -> dict[str, str]:
        return {"mlflow.user": os.environ.get("USER", "unknown"), "mlflow.source.name": "convloop"}


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


@contextmanager
def _true_status(run: PatientRun) -> Iterator[None]:
    """End a run as FINISHED, FAILED or KILLED, as it was."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        run.close(status)
