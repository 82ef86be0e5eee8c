"""How many human label errors the gate finds: precision and recall on CIFAR-10N (aggre_label, 9 % wrong).

python benchmarks/label_errors.py /path/to/cifar-10-batches-bin /path/to/cifar10n_labels.npz (aggre_label, clean_label)
"""

import sys
import time
from pathlib import Path

import numpy as np
from results_file import write_result

from convloop.config import GenerateParams
from convloop.core.images import Images, content_hashes
from convloop.core.label_errors import find_label_errors
from convloop.core.phash import perceptual_hashes
from convloop.core.split import TRAIN
from convloop.sources.cifar10 import read_cifar10

EXAMINED_COUNTS = (20_000, 50_000)
RANKS = (100, 500, 1_000, 2_000, 4_500)


def read(folder: str, labels_file: str) -> tuple[Images, np.ndarray]:
    source = read_cifar10(GenerateParams(source="cifar10", path=folder))
    batches = [batch for batch in source.batches if batch.splits_N[0] == TRAIN]
    images_NHWC = np.concatenate([batch.images_NHWC for batch in batches])
    with np.load(Path(labels_file)) as archive:
        given_N, true_N = archive["aggre_label"].astype(np.int64), archive["clean_label"]
    count = len(images_NHWC)
    images = Images(
        source.classes,
        (images_NHWC,),
        given_N,
        content_hashes(images_NHWC),
        np.concatenate([batch.splits_N for batch in batches]),
        np.concatenate([batch.names_N for batch in batches]),
        perceptual_hashes(images_NHWC),
        np.full((count, 2), 32, np.int32),
        np.zeros(count, np.int32),
    )
    return images, given_N != true_N


if __name__ == "__main__":
    images, wrong_N = read(*sys.argv[1:3])
    figures: dict[str, object] = {"wrong_share": float(wrong_N.mean())}
    for examined_count in EXAMINED_COUNTS:
        start_s = time.perf_counter()
        found = find_label_errors(images, max_image_count=examined_count)
        seconds = time.perf_counter() - start_s
        hit_S = wrong_N[found.suspects_S]
        wrong_count = wrong_N.mean() * examined_count
        precision, recall = float(hit_S.mean()), float(hit_S.sum() / wrong_count)
        ranked = {str(rank): float(hit_S[:rank].mean()) for rank in RANKS if rank <= len(hit_S)}
        print(
            f"{examined_count:,} examined in {seconds:.1f} s, model {found.accuracy:.3f}: {len(hit_S):,} suspects, "
            f"precision {precision:.3f}, recall {recall:.3f}; precision of the surest "
            + ", ".join(f"{rank} {share:.2f}" for rank, share in ranked.items())
        )
        figures[f"{examined_count} examined"] = {
            "seconds": seconds,
            "model_accuracy": found.accuracy,
            "suspect_count": len(hit_S),
            "precision": precision,
            "recall": recall,
            "precision_of_surest": ranked,
        }
    write_result("label-errors", figures)
