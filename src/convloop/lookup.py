"""Find what a user calls a model: a version, an alias, or a run by its name or the beginning of its id."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convloop import store
from convloop.errors import TrackingError
from convloop.registry import Registry, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from convloop.config import Params

_SHORTEST_PREFIX = 4
_ID_LENGTH = 32


@dataclass(frozen=True)
class Found:
    """A model's run and version; a version may have lost its run, a run need not have become a version."""

    run: "Run | None"
    version: Version | None


class Lookup:
    """The runs and versions of this project's store."""

    def __init__(self, project: Path, params: "Params") -> None:
        self._project, self._timeout_s = project, params.tracking.timeout_s
        self._experiment = params.tracking.experiment
        self._registry = Registry(project, params.registration.model_name, self._timeout_s)
        self._client: MlflowClient = store.connect(project, self._timeout_s)

    def find(self, word: str) -> Found:
        """Find a run or version; a word of digits alone is a version where there is such a one.

        Raises:
            TrackingError: nothing, or more than one run, is called so.
        """
        versions = self._registry.versions()
        alias = word.removeprefix("@")
        for version in versions:
            if word == version.number or (word.startswith("@") and alias in version.aliases):
                return Found(self._run(version.run_id), version)
        if word.startswith("@"):
            known = sorted({f"@{name}" for version in versions for name in version.aliases})
            raise TrackingError(
                f"{self._registry.name} has no {word}. Aliases: {', '.join(known) or 'none yet'}. See: convloop models"
            )
        run = self._named(word)
        by_run = [version for version in versions if version.run_id == run.info.run_id]
        return Found(run, by_run[0] if by_run else None)

    def artifact(self, run_id: str, path: str, folder: Path) -> Path | None:
        """Fetch an artifact of a run into a folder; None where the run has none of that name."""
        with store.answering(self._project, self._timeout_s):
            above = path.rpartition("/")[0]
            if path not in {entry.path for entry in self._client.list_artifacts(run_id, above or None)}:
                return None
            return Path(self._client.download_artifacts(run_id, path, str(folder)))

    def package(self, version: Version, folder: Path) -> Path:
        """Fetch the package of a version."""
        return self._registry.download(version.number, folder)

    def _named(self, word: str) -> "Run":
        if len(word) == _ID_LENGTH and (exact := self._run(word)):
            return exact
        runs = self._all_runs()
        named = [run for run in runs if run.info.run_name == word]
        if not named and len(word) >= _SHORTEST_PREFIX:
            named = [run for run in runs if run.info.run_id.startswith(word)]
        if not named:
            raise TrackingError(
                f'No run or version is called "{word}". Use a version (convloop models), an alias such as @champion, a '
                f"run's name, or the first {_SHORTEST_PREFIX} or more characters of its id (convloop ui)."
            )
        if len(named) > 1:
            ids = ", ".join(run.info.run_id[:8] for run in named[:8])
            raise TrackingError(f'{len(named)} runs are called "{word}". Say which by its id: {ids}.')
        return named[0]

    def _run(self, run_id: str) -> "Run | None":
        from mlflow.exceptions import MlflowException

        with store.answering(self._project, self._timeout_s):
            try:
                return self._client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None

    def _all_runs(self) -> "list[Run]":
        from mlflow.entities import ViewType

        with store.answering(self._project, self._timeout_s):
            experiment = self._client.get_experiment_by_name(self._experiment)
            if experiment is None:
                return []
            runs: list[Run] = []
            page = None
            while True:
                found = self._client.search_runs(
                    [experiment.experiment_id], run_view_type=ViewType.ALL, max_results=1000, page_token=page
                )
                runs += found
                page = found.token
                if not page:
                    return runs
