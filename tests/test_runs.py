"""What stages write into a run of MLflow, on a real store."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from convloop import store
from convloop.runs import MlflowRun


def test_runs_that_read_the_same_new_data_at_once_all_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = store.connect(tmp_path, 5)
    runs = [MlflowRun(client, tmp_path, 5, client.create_run("0").info.run_id) for _ in range(4)]
    together = Barrier(len(runs), timeout=30)

    def log(run: MlflowRun) -> None:
        for number in range(10):
            together.wait()
            run.log_inputs({"data/raw": f"{number:032x}.dir"})

    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(log, runs))
    assert [len(client.get_run(run.id).inputs.dataset_inputs) for run in runs] == [10] * len(runs)
