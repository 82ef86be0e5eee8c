"""Several processes, several projects and the UI on one SQLite store at once: no error, nothing lost."""

import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import environment
from tests.test_store import closed_port

pytestmark = [pytest.mark.system, pytest.mark.slow]

_WRITE = """
import sys
from pathlib import Path
from mlflow.entities import Metric
from convloop import store
client = store.connect(Path("."), 5)
run = client.create_run("0", run_name=sys.argv[1]).info.run_id
for step in range(60):
    client.log_batch(run, metrics=[Metric(f"m{index}", step, 1000 + step, step) for index in range(10)])
    client.set_tag(run, "step", str(step))
client.set_terminated(run)
"""


def test_two_projects_four_writers_and_the_ui_share_a_store(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    note = other / "models/model/run.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "training_id": "of the other project"}))
    uri = f"sqlite:///{tmp_path}/shared/mlflow.db"
    port = closed_port()

    def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=environment(folder, MLFLOW_TRACKING_URI=uri),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    page = start(trained, "-m", "convloop", "ui", "--port", str(port))
    running = [start(folder, "-c", _WRITE, f"{folder.name} {index}") for folder in (trained, other) for index in (0, 1)]
    running += [start(folder, "-m", "convloop", "register") for folder in (trained, other)]
    try:
        assert page.stdout is not None
        assert page.stdout.readline().startswith("The runs: ")
        answers: list[int] = []
        while not answers or any(process.poll() is None for process in running):
            asked = urllib.request.Request(
                f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/runs/search",
                data=json.dumps({"experiment_ids": ["0", "1"]}).encode(),
                headers={"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(asked, timeout=60) as answer:
                answers.append(answer.status)
    finally:
        page.terminate()
        page_said = page.communicate()[1]
        ended = [(process.communicate()[1], process.returncode) for process in running]
    assert [code for _, code in ended] == [0] * 6, ended
    assert not any("locked" in said or "Traceback" in said for said, _ in ended), ended
    assert "Traceback" not in page_said
    assert set(answers) == {200}
    client = MlflowClient(uri)
    written = client.search_runs(["0"])
    assert len(written) == 4
    for run in written:
        assert (run.info.status, run.data.tags["step"]) == ("FINISHED", "59")
        assert len(client.get_metric_history(run.info.run_id, "m3")) == 60
    models = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert sorted(run.info.status for run in models) == ["FINISHED", "FINISHED"]
    assert len(client.search_model_versions("name = 'small'")) == 1  # the same package twice
    assert sorted(client.get_registered_model("small").aliases) == ["candidate", "champion"]
