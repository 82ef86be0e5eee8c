"""What a run can be: one of MLflow, one that is patient with an absent server, one that records nothing."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from convloop import store
from convloop.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
            say_behind(error)

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


def say_behind(error: TrackingError) -> None:
    """Tell a user once that the server is away and what that means."""
    said = str(error).partition(". ")[0]
    print(f"{said}. Training goes on; its history is kept. Send it later: convloop sync", file=sys.stderr)
