"""Near-duplicates among 1,000,000 hashes: seconds of one process to hash the images and to find all near pairs."""

import resource
import time

import numpy as np
from results_file import write_result

from convloop.core.phash import perceptual_hashes
from convloop.core.synth import synthetic_batches
from convloop.core.twins import comparison_count, pairs_within

IMAGE_COUNT, IMAGE_PX = 1_000_000, 32

if __name__ == "__main__":
    hash_s, parts = 0.0, []
    for batch in synthetic_batches(
        seed=7,
        image_count=IMAGE_COUNT,
        class_count=10,
        image_px=IMAGE_PX,
        channel_count=3,
        difficulty_share=0.25,
        label_noise_share=0.0,
        imbalance_ratio=1.0,
        shift_share=0.0,
    ):
        start_s = time.perf_counter()
        parts.append(perceptual_hashes(batch.images_NHWC))
        hash_s += time.perf_counter() - start_s
    drawn_N = np.concatenate(parts)
    random_N = np.random.default_rng(7).integers(0, 2**64, IMAGE_COUNT, np.uint64)
    figures: dict[str, object] = {"image_count": IMAGE_COUNT, "image_px": IMAGE_PX, "hash_s": hash_s}
    print(f"hashing {IMAGE_COUNT:,} images of {IMAGE_PX} px: {hash_s:.1f} s")
    for name, hashes_N, distance_bits in (("random bits", random_N, 7), ("drawn shapes", drawn_N, 3)):
        start_s = time.perf_counter()
        pairs_P2 = pairs_within(hashes_N, distance_bits, 10_000_000)
        search_s = time.perf_counter() - start_s
        pair_count = None if pairs_P2 is None else len(pairs_P2)
        compared = comparison_count(hashes_N, distance_bits)
        print(
            f"{name}, up to {distance_bits} bits: {search_s:.1f} s, {compared / 1e6:,.0f} M compared, {pair_count:,} pairs"
        )
        figures[name] = {"distance_bits": distance_bits, "search_s": search_s, "pair_count": pair_count}
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak_mib:,.0f} MiB")
    write_result("near-twins", {**figures, "peak_mib": peak_mib})
