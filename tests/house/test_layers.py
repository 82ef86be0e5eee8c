"""The contracts in pyproject.toml hold, and would not if somebody strayed."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.house.closure import PROJECT

_LINT = Path(sys.executable).parent / "lint-imports"


def _lint(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(_LINT), "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "src"), "PATH": str(_LINT.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def _copy(folder: Path) -> Path:
    shutil.copytree(PROJECT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    return folder


def test_import_contracts_hold() -> None:
    done = _lint(PROJECT)

    assert done.returncode == 0, done.stdout


def test_a_stray_module_breaks_the_contracts(tmp_path: Path) -> None:
    project = _copy(tmp_path)
    (project / "src/convloop/utils.py").write_text("")

    assert _lint(project).returncode == 1


def test_mlflow_in_core_breaks_the_contracts(tmp_path: Path) -> None:
    project = _copy(tmp_path)
    (project / "src/convloop/core/gate.py").write_text("import mlflow\n")

    assert _lint(project).returncode == 1
