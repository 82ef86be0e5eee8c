"""One trained model is one MLflow run: opened by train, found again by evaluate and register, rebuilt when lost.

Files come first: what a run shows can always be sent again from reports/ and models/ (`reporting.publish`).
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from convloop import store
from convloop.core.card import read_card
from convloop.core.ranks import is_lead
from convloop.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from convloop.config import TrackingParams

COMPLETE = "convloop.complete"
DIGEST = "convloop.model_digest"
_BATCH_COUNT = 1000  # most metrics that MLflow takes at once


class Run(Protocol):
    """What stages may do with a run."""

    id: str | None

    def log_params(self, params: dict[str, Any]) -> None: ...
    def log_tags(self, tags: dict[str, str]) -> None: ...
    def log_inputs(self, digests: dict[str, str]) -> None: ...
    def log_metrics(self, metrics: dict[str, float], *, step: int, time_ms: int) -> None: ...
    def log_file(self, file: Path, folder: str = "") -> None: ...
    def log_image(self, file: Path, key: str, *, step: int) -> None: ...
    def tag(self, name: str) -> str | None: ...


class SilentRun:
    """Stand in for a run where nothing is to be recorded: on other ranks, and while the server is away."""

    id: str | None = None

    def log_params(self, params: dict[str, Any]) -> None: ...
    def log_tags(self, tags: dict[str, str]) -> None: ...
    def log_inputs(self, digests: dict[str, str]) -> None: ...
    def log_metrics(self, metrics: dict[str, float], *, step: int, time_ms: int) -> None: ...
    def log_file(self, file: Path, folder: str = "") -> None: ...
    def log_image(self, file: Path, key: str, *, step: int) -> None: ...
    def tag(self, name: str) -> str | None:
        return None


class MlflowRun:
    """A run of MLflow; every verb raises TrackingError when the store gives no answer."""

    def __init__(self, client: "MlflowClient", project: Path, timeout_s: int, run_id: str) -> None:
        self._client, self._project, self._timeout_s = client, project, timeout_s
        self.id: str | None = run_id
        self._run_id = run_id

    def log_params(self, params: dict[str, Any]) -> None:
        """Log what makes the model; the same value again is fine, another one is refused by MLflow."""
        from mlflow.entities import Param

        with store.answering(self._project, self._timeout_s):
            self._client.log_batch(self._run_id, params=[Param(key, str(value)) for key, value in params.items()])

    def log_tags(self, tags: dict[str, str]) -> None:
        """Log what judges or describes the model; a later value replaces an earlier one."""
        from mlflow.entities import RunTag

        with store.answering(self._project, self._timeout_s):
            self._client.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_inputs(self, digests: dict[str, str]) -> None:
        """Log the data sets that were read, by path, under the md5s that DVC gives them."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(Dataset(path, digest, "dvc", path), [InputTag("mlflow.data.context", "training")])
            for path, digest in digests.items()
        ]
        with store.answering(self._project, self._timeout_s):
            self._client.log_inputs(self._run_id, inputs)

    def log_metrics(self, metrics: dict[str, float], *, step: int, time_ms: int) -> None:
        """Log values of one moment; sending the same ones again adds nothing."""
        from mlflow.entities import Metric

        entries = [Metric(key, value, time_ms, step) for key, value in metrics.items()]
        with store.answering(self._project, self._timeout_s):
            for start in range(0, len(entries), _BATCH_COUNT):
                self._client.log_batch(self._run_id, metrics=entries[start : start + _BATCH_COUNT])

    def log_file(self, file: Path, folder: str = "") -> None:
        """Keep a file as an artifact."""
        with store.answering(self._project, self._timeout_s):
            self._client.log_artifact(self._run_id, str(file), folder or None)

    def log_image(self, file: Path, key: str, *, step: int) -> None:
        """Show a picture in the run's image grid."""
        import numpy as np
        from PIL import Image

        with store.answering(self._project, self._timeout_s), Image.open(file) as picture:
            self._client.log_image(self._run_id, np.asarray(picture.convert("RGB")), key=key, step=step)

    def tag(self, name: str) -> str | None:
        """Read a tag, or None."""
        with store.answering(self._project, self._timeout_s):
            value: str | None = self._client.get_run(self._run_id).data.tags.get(name)
        return value

    def close(self, status: str) -> None:
        """Give the run its true last status: FINISHED, FAILED or KILLED."""
        with store.answering(self._project, self._timeout_s):
            self._client.set_terminated(self._run_id, status)


class PatientRun:
    """Pass everything on until the server is away once; from then on stay silent, since the files are complete."""

    def __init__(self, run: MlflowRun) -> None:
        self._run = run
        self.id = run.id
        self.is_behind = False

    def _try(self, call: Callable[[], None]) -> None:
        if self.is_behind:
            return
        try:
            call()
        except TrackingError as error:
            self.is_behind = True
            _say_behind(error)

    def log_params(self, params: dict[str, Any]) -> None:
        self._try(lambda: self._run.log_params(params))

    def log_tags(self, tags: dict[str, str]) -> None:
        self._try(lambda: self._run.log_tags(tags))

    def log_inputs(self, digests: dict[str, str]) -> None:
        self._try(lambda: self._run.log_inputs(digests))

    def log_metrics(self, metrics: dict[str, float], *, step: int, time_ms: int) -> None:
        self._try(lambda: self._run.log_metrics(metrics, step=step, time_ms=time_ms))

    def log_file(self, file: Path, folder: str = "") -> None:
        self._try(lambda: self._run.log_file(file, folder))

    def log_image(self, file: Path, key: str, *, step: int) -> None:
        self._try(lambda: self._run.log_image(file, key, step=step))

    def tag(self, name: str) -> str | None:
        return None

    def close(self, status: str) -> None:
        self._try(lambda: self._run.close(status))


class Tracker:
    """Open runs in this project's store."""

    def __init__(self, project: Path, settings: "TrackingParams") -> None:
        self._project, self._settings = project, settings

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
        status = "FAILED"
        try:
            yield run
            run.log_tags({COMPLETE: "true"})
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            run.close(status)

    def _open_for_training(self, note: Path, name: str) -> PatientRun | None:
        try:
            client = store.connect(self._project, self._settings.timeout_s)
            with store.answering(self._project, self._settings.timeout_s):
                experiment_id = self._experiment_id(client, self._settings.experiment)
                run_id = note.read_text().strip() if note.is_file() else ""
                if run_id and self._is_known(client, run_id):
                    client.update_run(run_id, status="RUNNING")
                else:
                    run_id = client.create_run(experiment_id, tags=self._first_tags(), run_name=name).info.run_id
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(run_id)
            return PatientRun(MlflowRun(client, self._project, self._settings.timeout_s, run_id))
        except TrackingError as error:
            _say_behind(error)
            return None

    def model_run(self, publish: Callable[[Run, Path], None]) -> Run:
        """Find the run of models/model; where this store does not know it, or only half, send it from the files.

        Args:
            publish: writes all that training has to say into a run.

        Raises:
            TrackingError: the store gives no answer.
        """
        timeout_s = self._settings.timeout_s
        package = self._project / "models/model"
        digest = read_card(package).digest
        note = json.loads((package / "run.json").read_text(encoding="utf-8"))
        client = store.connect(self._project, timeout_s)
        with store.answering(self._project, timeout_s):
            experiment_id = self._experiment_id(client, self._settings.experiment)
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
            publish(run, self._project)
            run.log_tags({COMPLETE: "true"})
            run.close("FINISHED")
        return run

    @contextmanager
    def retraining_run(self, name: str, tags: dict[str, str]) -> Iterator[Run]:
        """Open the run of one retraining, in an experiment of its own so that models stay comparable."""
        timeout_s = self._settings.timeout_s
        client = store.connect(self._project, timeout_s)
        with store.answering(self._project, timeout_s):
            experiment_id = self._experiment_id(client, f"{self._settings.experiment}-retraining")
            run_id = client.create_run(experiment_id, tags={**self._first_tags(), **tags}, run_name=name).info.run_id
        run = PatientRun(MlflowRun(client, self._project, timeout_s, run_id))
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            run.close(status)

    def _experiment_id(self, client: "MlflowClient", name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(name)
        if found is None:
            local = store.tracking_uri(self._project).startswith("sqlite")
            place = (store.folder(self._project) / "artifacts").as_uri() if local else None
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


def _say_behind(error: TrackingError) -> None:
    said = str(error).partition(". ")[0]
    print(f"{said}. Training goes on; its history is kept. Send it later: convloop sync", file=sys.stderr)  # noqa: T201
