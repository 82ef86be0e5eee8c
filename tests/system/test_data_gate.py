"""The data gate under real DVC: what it says survives the stop."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Convloop

pytestmark = [pytest.mark.system, pytest.mark.slow]


def _write_source(repository: Path, labels_of_twins: tuple[int, int]) -> None:
    """Write an .npz whose first two images are twins, under the labels given."""
    images_NHWC = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 1), np.uint8)
    images_NHWC[1] = images_NHWC[0]
    labels_N = np.arange(300) % 3
    labels_N[:2] = labels_of_twins
    np.savez(repository / "mine.npz", images=images_NHWC, labels=labels_N)


def test_a_stopped_gate_leaves_its_report_and_passes_once_the_data_are_mended(repository: Path, dvc: Convloop) -> None:
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("source: synthetic, path: null", "source: npz, path: mine.npz"))
    report = repository / "reports/prepare"
    _write_source(repository, (0, 1))

    stopped = dvc("repro", "prepare")

    assert stopped.returncode != 0
    assert "1 finding stops the pipeline." in stopped.stdout + stopped.stderr
    assert json.loads((report / "report.json").read_text())["passed"] is False
    assert "data:image/png;base64," in (report / "report.html").read_text()
    assert not (repository / "data/prepared").exists()

    again = dvc("repro", "prepare")
    assert again.returncode != 0
    assert json.loads((report / "report.json").read_text())["passed"] is False

    _write_source(repository, (1, 1))
    mended = dvc("repro", "--force", "prepare")

    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert json.loads((report / "report.json").read_text())["passed"] is True
    assert (report / "card.html").is_file()
    assert "Data and pipelines are up to date." in dvc("repro", "prepare").stdout
