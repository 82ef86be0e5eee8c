"""What a run can be: one of MLflow, and one that records nothing. `sender` has the third, which never waits."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from convloop import store
from convloop.core.history import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH_COUNT = 1000  # most metrics that MLflow takes at once


class Run(Protocol):
    """What stages may do with a run."""

    @property
    def id(self) -> str | None: ...
    def log_params(self, params: dict[str, Any]) -> None: ...
    def log_tags(self, tags: dict[str, str]) -> None: ...
    def log_inputs(self, digests: dict[str, str]) -> None: ...
    def log_points(self, points: Sequence[Point]) -> None: ...
    def log_file(self, file: Path, folder: str = "") -> None: ...
    def log_image(self, file: Path, key: str, *, step: int) -> None: ...
    def tag(self, name: str) -> str | None: ...


class SilentRun:
    """Stand in for a run where nothing is to be recorded: on other ranks, and while the server is away."""

    id: str | None = None

    def log_params(self, params: dict[str, Any]) -> None: ...
    def log_tags(self, tags: dict[str, str]) -> None: ...
    def log_inputs(self, digests: dict[str, str]) -> None: ...
    def log_points(self, points: Sequence[Point]) -> None: ...
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
        from mlflow.exceptions import MlflowException

        inputs = [
            DatasetInput(Dataset(path, digest, "dvc", path), [InputTag("mlflow.data.context", "training")])
            for path, digest in digests.items()
        ]
        with store.answering(self._project, self._timeout_s):
            try:
                self._client.log_inputs(self._run_id, inputs)
            except MlflowException as error:
                if "datasets.digest" not in str(error) and "dataset_pk" not in str(error):
                    raise
                # Another run told of the same new data set between MLflow's look and its write; now it is known.
                self._client.log_inputs(self._run_id, inputs)

    def log_points(self, points: Sequence[Point]) -> None:
        """Log metrics, as many at once as MLflow takes."""
        from mlflow.entities import Metric

        entries = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
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

    def close(self, status: str, time_ms: int | None = None) -> None:
        """Give the run its true last status, FINISHED, FAILED or KILLED, and the time of its end (now)."""
        with store.answering(self._project, self._timeout_s):
            self._client.set_terminated(self._run_id, status, end_time=time_ms)

    def reopen(self) -> None:
        """Show the run as going on."""
        with store.answering(self._project, self._timeout_s):
            self._client.update_run(self._run_id, status="RUNNING")
