"""Who may write, and who started the processes, for every launcher."""

import pytest

from convloop.core.ranks import Launch, is_lead, outside_launch

_TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
_SLURM = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train"}
_PYTORCHJOB = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}
_LIGHTNING = {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_TORCHRUN, *_SLURM, *_PYTORCHJOB, *_LIGHTNING, "SLURM_STEP_ID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "lead"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "1"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
        ({"JSM_NAMESPACE_RANK": "2"}, False),
        ({"LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "1"}, True),
        ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, False),  # started by Lightning in a script of SLURM
    ],
)
def test_one_rank_alone_is_the_lead(variables: dict[str, str], lead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_lead() is lead


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        ({}, None),
        (_LIGHTNING, None),
        (_TORCHRUN, Launch("torchrun", 2, 2)),
        (_SLURM, None),  # a script that does not use srun is one process
        (_SLURM | {"SLURM_STEP_ID": "0"}, Launch("slurm", 2, 4)),
        (_SLURM | {"SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "bash"}, None),
        (_SLURM | {"SLURM_STEP_ID": "0"} | _TORCHRUN, Launch("torchrun", 2, 2)),
        (_PYTORCHJOB, Launch("kubeflow", 3, 1)),
    ],
)
def test_who_started_the_processes_is_told(
    variables: dict[str, str], launch: Launch | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert outside_launch() == launch
