"""Versions and aliases: one version for one model, one champion at a time, whoever asks and however often."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convloop import store
from convloop.core.card import CARD_FILE, read_card
from convloop.core.package import Package
from convloop.errors import TrackingError
from convloop.registry import Registry
from tests.conftest import environment
from tests.test_store import closed_port

_ADD = """
import sys
from pathlib import Path
from convloop.registry import Registry
project, digest, run_id = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
registry = Registry(project, "small", 5)
print("ready", flush=True)
sys.stdin.readline()
with registry.locked():
    print(registry.add(project / "models/model", digest, run_id))
"""
_PROMOTE = """
import sys
from pathlib import Path
from convloop.registry import Registry
registry = Registry(Path(sys.argv[1]), "small", 5)
print("ready", flush=True)
sys.stdin.readline()
with registry.locked():
    registry.promote(sys.argv[2])
"""


@pytest.fixture
def registry(project: Path) -> Registry:
    return Registry(project, "small", 5)


@pytest.fixture
def run_id(project: Path) -> str:
    """A run to hang versions on."""
    client = store.connect(project, 5)
    experiment_id = client.create_experiment("small", (project / "mlruns/artifacts").as_uri())
    return str(client.create_run(experiment_id).info.run_id)


@pytest.fixture
def package(project: Path) -> Path:
    """A folder that stands for a package where nobody loads it."""
    folder = project / "models/model"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    return folder


def aliases(registry: Registry) -> dict[str, tuple[str, ...]]:
    return {version.number: version.aliases for version in registry.versions()}


def test_model_without_versions_has_none(registry: Registry) -> None:
    assert registry.versions() == []
    assert registry.champion() is None


def test_added_package_is_version_1_and_candidate(registry: Registry, package: Path, run_id: str) -> None:
    assert registry.add(package, "a" * 64, run_id) == "1"
    (version,) = registry.versions()
    assert (version.number, version.aliases, version.run_id) == ("1", ("candidate",), run_id)
    assert version.tags == {"convloop.model_digest": "a" * 64}


def test_same_digest_keeps_its_version(registry: Registry, package: Path, run_id: str) -> None:
    assert [registry.add(package, digest * 64, run_id) for digest in "aab"] == ["1", "1", "2"]
    assert registry.add(package, "a" * 64, run_id) == "1"
    assert aliases(registry) == {"2": (), "1": ("candidate",)}


def test_versions_are_listed_newest_first(registry: Registry, package: Path, run_id: str) -> None:
    for index in range(11):  # past 9, where sorting texts would go wrong
        registry.add(package, f"{index:064x}", run_id)
    assert [version.number for version in registry.versions()] == [str(number) for number in range(11, 0, -1)]


def test_first_promotion_has_no_previous(registry: Registry, package: Path, run_id: str) -> None:
    registry.promote(registry.add(package, "a" * 64, run_id))
    assert registry.champion() == "1"
    assert aliases(registry) == {"1": ("candidate", "champion")}


def test_promotion_makes_the_old_champion_previous(registry: Registry, package: Path, run_id: str) -> None:
    for digest in "abc":
        registry.promote(registry.add(package, digest * 64, run_id))
    assert aliases(registry) == {"3": ("candidate", "champion"), "2": ("previous",), "1": ()}


def test_promoting_the_champion_again_changes_nothing(registry: Registry, package: Path, run_id: str) -> None:
    for digest in "ab":
        registry.promote(registry.add(package, digest * 64, run_id))
    before = aliases(registry)
    registry.promote("2")
    assert aliases(registry) == before == {"2": ("candidate", "champion"), "1": ("previous",)}


def test_promoting_the_previous_one_swaps_the_two(registry: Registry, package: Path, run_id: str) -> None:
    for digest in "ab":
        registry.promote(registry.add(package, digest * 64, run_id))
    registry.promote("1")
    assert aliases(registry) == {"2": ("candidate", "previous"), "1": ("champion",)}


def test_tags_are_written_on_the_version(registry: Registry, package: Path, run_id: str) -> None:
    number = registry.add(package, "a" * 64, run_id)
    registry.tag(number, {"verdict": "refused", "reason": "Refused: it’s worse."})
    (version,) = registry.versions()
    assert version.tags == {
        "convloop.model_digest": "a" * 64,
        "verdict": "refused",
        "reason": "Refused: it’s worse.",
    }


def test_model_names_may_hold_quotes_and_spaces(project: Path, package: Path, run_id: str) -> None:
    registry = Registry(project, "Ann's model", 5)
    registry.promote(registry.add(package, "a" * 64, run_id))
    assert registry.add(package, "a" * 64, run_id) == "1"
    assert aliases(registry) == {"1": ("candidate", "champion")}


def test_two_models_do_not_share_versions(project: Path, registry: Registry, package: Path, run_id: str) -> None:
    other = Registry(project, "other", 5)
    registry.promote(registry.add(package, "a" * 64, run_id))
    assert other.add(package, "a" * 64, run_id) == "1"
    assert other.champion() is None


@pytest.mark.system
def test_processes_that_add_the_same_digest_at_once_share_one_version(
    project: Path, registry: Registry, package: Path, run_id: str
) -> None:
    words = [sys.executable, "-c", _ADD, str(project), "a" * 64, run_id]
    started = [
        subprocess.Popen(
            words, env=environment(project), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert [process.communicate("go\n")[0] for process in started] == ["1\n"] * 3
    assert [version.number for version in registry.versions()] == ["1"]


@pytest.mark.system
def test_two_promoters_at_once_lose_no_champion(project: Path, registry: Registry, package: Path, run_id: str) -> None:
    """Whoever comes second, the first champion of the two must be `previous`, never forgotten."""
    for digest in "abc":
        registry.add(package, digest * 64, run_id)
    registry.promote("1")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _PROMOTE, str(project), number],
            env=environment(project),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for number in ("2", "3")
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
    roles = {role: number for number, names in aliases(registry).items() for role in names if role != "candidate"}
    assert set(roles) == {"champion", "previous"}
    assert {roles["champion"], roles["previous"]} == {"2", "3"}


def test_package_that_serves_needs_a_champion(registry: Registry, package: Path, run_id: str, tmp_path: Path) -> None:
    registry.add(package, "a" * 64, run_id)
    with pytest.raises(TrackingError) as raised:
        registry.champion_package(tmp_path / "fetched")
    assert str(raised.value) == "small has no champion yet. Train and register one: make repro"


def test_downloaded_package_answers_like_the_original(trained: Path, run_id: str, tmp_path: Path) -> None:
    registry = Registry(trained, "small", 5)
    original = Package(trained / "models/model")
    registry.promote(registry.add(trained / "models/model", original.card.digest, run_id))
    shutil.rmtree(trained / "models")
    number, folder = registry.champion_package(tmp_path)
    fetched = Package(folder)
    images_NHWC = np.random.default_rng(7).integers(0, 256, (9, 16, 16, 3), np.uint8)
    assert number == "1"
    assert fetched.card == original.card
    np.testing.assert_array_equal(
        fetched.probabilities(images_NHWC, batch_size=9), original.probabilities(images_NHWC, batch_size=9)
    )


def test_versions_of_different_runs_keep_their_own_packages(
    trained: Path, registry: Registry, run_id: str, tmp_path: Path
) -> None:
    client = store.connect(trained, 5)
    other_run = str(client.create_run(client.get_run(run_id).info.experiment_id).info.run_id)
    package = trained / "models/model"
    registry.promote(registry.add(package, "a" * 64, run_id))
    card = package / CARD_FILE
    card.write_text(json.dumps(json.loads(card.read_text()) | {"epoch": 77}))
    registry.add(package, "b" * 64, other_run)
    assert read_card(registry.download("1", tmp_path / "one")).epoch != 77
    assert read_card(registry.download("2", tmp_path / "two")).epoch == 77


def test_registry_without_a_server_says_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with pytest.raises(TrackingError) as raised:
        Registry(project, "small", 5)
    assert str(raised.value) == (
        f"No answer from MLflow at http://127.0.0.1:{port} in 5 s. "
        "Start the server or unset MLFLOW_TRACKING_URI, then run the same command again."
    )
