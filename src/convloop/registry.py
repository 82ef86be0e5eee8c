"""Versions of the registered model, and the alias that says which one serves.

`champion` serves, `previous` served before it, `candidate` was judged last. Look-ups, versions and alias moves happen
under one lock, since MLflow itself lets two promoters overwrite each other.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convloop import store
from convloop.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, PREVIOUS, CANDIDATE = "champion", "previous", "candidate"
DIGEST = "convloop.model_digest"
_UPLOADED = "model"


@dataclass(frozen=True)
class Version:
    """One version of the registered model, as a user would list it."""

    number: str
    aliases: tuple[str, ...]
    tags: dict[str, str]
    run_id: str
    created_ms: int
    source: str


class Registry:
    """The versions of one registered model."""

    def __init__(self, project: Path, name: str, timeout_s: int) -> None:
        self.name = name
        self._project, self._timeout_s = project, timeout_s
        self._client: MlflowClient = store.connect(project, timeout_s)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other promoter of this machine out from the look-up to the move of the alias."""
        with store.locked(store.lock_folder(self._project) / f"registry-{self.name}.lock"):
            yield

    def add(self, package: Path, digest: str, run_id: str) -> str:
        """Upload a package as the next version and call it candidate; the same digest keeps the version it has."""
        with self._answering():
            self._ensure_model()
            version = self._with_digest(digest)
            if version is None:
                self._client.log_artifacts(run_id, str(package), _UPLOADED)
                run = self._client.get_run(run_id)
                version = self._client.create_model_version(
                    self.name,
                    f"{run.info.artifact_uri}/{_UPLOADED}",
                    run_id,
                    tags={DIGEST: digest},
                )
            number = str(version.version)
            self._client.set_registered_model_alias(self.name, CANDIDATE, number)
        return number

    def tag(self, number: str, tags: dict[str, str]) -> None:
        """Write tags on a version; the MLflow UI shows them where it shows no metrics."""
        with self._answering():
            for key, value in tags.items():
                self._client.set_model_version_tag(self.name, number, key, value)

    def promote(self, number: str) -> None:
        """Let a version serve; the one that served becomes `previous`."""
        with self._answering():
            serving = self._aliases().get(CHAMPION)
            if serving == number:
                return
            if serving is not None:
                self._client.set_registered_model_alias(self.name, PREVIOUS, serving)
            self._client.set_registered_model_alias(self.name, CHAMPION, number)

    def champion(self) -> str | None:
        """Give the number of the version that serves, or None."""
        with self._answering():
            return self._aliases().get(CHAMPION)

    def download(self, number: str, folder: Path) -> Path:
        """Fetch a version's package into `folder` and return where it lies."""
        import mlflow.artifacts

        with self._answering():
            uri = self._client.get_model_version_download_uri(self.name, number)
            return Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=uri, dst_path=str(folder), tracking_uri=store.tracking_uri(self._project)
                )
            )

    def versions(self) -> list[Version]:
        """List all versions, newest first."""
        with self._answering():
            by_number: dict[str, list[str]] = {}
            for alias, number in self._aliases().items():
                by_number.setdefault(number, []).append(alias)
            found = self._client.search_model_versions(f"name = {self._quoted()}")
        versions = [
            Version(
                str(version.version),
                tuple(sorted(by_number.get(str(version.version), ()))),
                dict(version.tags),
                str(version.run_id),
                int(version.creation_timestamp),
                str(version.source),
            )
            for version in found
        ]
        return sorted(versions, key=lambda version: -int(version.number))

    def champion_package(self, folder: Path) -> tuple[str, Path]:
        """Fetch the package that serves, with its version.

        Raises:
            TrackingError: nothing is promoted yet.
        """
        number = self.champion()
        if number is None:
            raise TrackingError(f"{self.name} has no champion yet. Train and register one: make repro")
        return number, self.download(number, folder)

    def _answering(self) -> AbstractContextManager[None]:
        return store.answering(self._project, self._timeout_s)

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._client.create_registered_model(self.name)

    def _aliases(self) -> dict[str, str]:
        from mlflow.exceptions import MlflowException

        try:
            aliases = self._client.get_registered_model(self.name).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {alias: str(number) for alias, number in aliases.items()}

    def _with_digest(self, digest: str) -> "ModelVersion | None":
        found = self._client.search_model_versions(f"name = {self._quoted()} and tag.`{DIGEST}` = '{digest}'")
        return min(found, key=lambda version: int(version.version)) if found else None

    def _quoted(self) -> str:
        """Quote the name for a filter of MLflow, which knows no escapes."""
        quote = '"' if "'" in self.name else "'"
        return f"{quote}{self.name}{quote}"
