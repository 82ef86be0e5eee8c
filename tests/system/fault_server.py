"""A real MLflow server, and a gate before it that answers as a sick one would."""

import http.client
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.test_store import closed_port

KINDS = ("refused", "error 500", "silent", "slow")
_SLOW_S = 2


class FaultServer:
    """Pass requests on to `upstream_port` as long as `be` says "well", else answer as its kind does."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self.port = closed_port()
        self.kind = "well"
        self._well_again = threading.Event()
        self._listen()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def be(self, kind: str) -> None:
        """Change how requests are answered from now on."""
        if kind == "refused":
            self._stop()
        elif self.kind == "refused":
            self._listen()
        self.kind = kind
        if kind == "well":
            self._well_again.set()
        else:
            self._well_again.clear()

    def close(self) -> None:
        if self.kind != "refused":
            self._well_again.set()
            self._stop()

    def _listen(self) -> None:
        fault = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if fault.kind == "error 500":
                    self.send_error(500)
                    return
                if fault.kind == "silent":
                    fault._well_again.wait(60)
                    return  # too late: the client has gone
                if fault.kind == "slow":
                    time.sleep(_SLOW_S)
                connection = http.client.HTTPConnection("127.0.0.1", fault._upstream_port, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                received = connection.getresponse()
                content = received.read()
                connection.close()
                self.send_response(received.status)
                for name, value in received.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True  # a client that was killed

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def mlflow_server(folder: Path, migrated_store: Path) -> Iterator[int]:
    """Run MLflow's own server on a fresh store in `folder`; give its port."""
    shutil.copy(migrated_store, folder)
    port = closed_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / migrated_store.name}"),
        *("--artifacts-destination", (folder / "artifacts").as_uri()),
    ]
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **lean}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(60)
