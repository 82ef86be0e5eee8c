"""What users have written down: a change here is a change for them, and belongs into CHANGELOG.md."""

import subprocess
import sys
from typing import get_args

from convloop.config import Mode, Params
from convloop.core.modes import MODES
from tests.house.closure import PROJECT

PARAMS = """
generate.source generate.path generate.licence generate.image_count generate.class_count generate.image_px generate.channel_count
generate.fit generate.max_refused_share generate.seed generate.difficulty_share generate.label_noise_share
generate.imbalance_ratio generate.shift_share
prepare.val_share prepare.test_share prepare.min_class_image_count prepare.classes prepare.original_px_range
prepare.original_modes prepare.brightness_range prepare.test_sha256 prepare.label_check_image_count prepare.max_doubtful_share
train.net.name train.net.channels train.net.kernel_px train.net.stride_px train.net.padding train.net.pool
train.net.hidden_count train.net.depth train.net.width train.net.weights_path
train.epochs train.batch_size train.lr train.optimizer train.momentum
train.weight_decay train.curve train.warmup_share train.label_smoothing_share train.augment.flip train.augment.shift_px
train.augment.trivial train.augment.cutout_px train.augment.mixup_alpha train.augment.cutmix_alpha train.average_share
train.stop_after_epoch_count train.test_flip train.test_shift_px train.seed train.class_weights train.sampling train.keep
train.save_every_s
train.accelerator train.devices train.nodes train.launcher train.strategy train.precision
train.deterministic train.compile train.images_in train.accumulate train.clip train.sync_batchnorm
evaluate.batch_size evaluate.worst_image_count
register.model_name register.min_accuracy_share register.min_gain_share register.max_loss_share
tracking.experiment tracking.timeout_s
tune.space tune.trial_count tune.epochs tune.pruner
"""

WORDS = (
    "generate prepare train evaluate register run tune predict models show verify compare ingest takedown retrain schedule "
    "sync store ui doctor"
)


def _keys(section: type, prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():  # type: ignore[attr-defined]
        below = field.annotation
        if hasattr(below, "model_fields"):
            keys += _keys(below, f"{prefix}{field.alias or name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def test_params_keys_are_the_known_ones() -> None:
    assert _keys(Params) == PARAMS.split()


def test_params_name_the_modes_that_shards_keep() -> None:
    assert get_args(Mode) == MODES


def test_command_words_are_the_known_ones() -> None:
    done = subprocess.run([sys.executable, "-m", "convloop", "--help"], capture_output=True, text=True, check=True)
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ") and line[4] != " "]

    assert listed == WORDS.split()


def test_params_page_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, "docs/params.py", "--print"], cwd=PROJECT, capture_output=True, text=True, check=True
    )

    assert (PROJECT / "docs/params.md").read_text() == done.stdout, "write it anew: make docs"
