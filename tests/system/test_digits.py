"""The small real set: scikit-learn's handwritten digits, from an .npz file to a champion."""

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from convloop.params_check import load
from convloop.pipeline import STAGES
from convloop.registry import Registry
from convloop.tracking import Tracker

_PARAMS = """\
generate: {source: npz, path: digits.npz, image_px: 8, channel_count: 1}
train: {net: {name: cnn2}, epochs: 8, batch_size: 32}
register: {model_name: digits, min_accuracy_share: 0.9}
"""


def test_digits_become_a_champion_that_reads_nine_in_ten(project: Path) -> None:
    digits = load_digits()
    images_NHW = (digits.images * 15).astype(np.uint8)
    np.savez(project / "digits.npz", images=images_NHW, labels=digits.target, classes=digits.target_names.astype(str))
    (project / "params.yaml").write_text(_PARAMS)
    params = load(project / "params.yaml")
    tracker = Tracker(project, params.tracking)

    for stage in STAGES.values():
        stage.run(params, project, tracker)

    scores = json.loads((project / "reports/evaluate/scores.json").read_text())
    assert scores["accuracy"] > 0.9
    assert Registry(project, "digits", params.tracking.timeout_s).champion() == "1"
