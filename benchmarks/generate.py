"""How fast `synthetic` draws: images per CPU second of one core, five times."""

import time
from statistics import median

from results_file import write_result

from convloop.core.synth import synthetic_batches

IMAGE_COUNT, REPEATS = 50_000, 5


def images_per_cpu_s() -> float:
    start_s = time.process_time()
    for _ in synthetic_batches(
        seed=7,
        image_count=IMAGE_COUNT,
        class_count=10,
        image_px=32,
        channel_count=3,
        difficulty_share=0.25,
        label_noise_share=0.0,
        imbalance_ratio=1.0,
        shift_share=0.0,
    ):
        pass
    return IMAGE_COUNT / (time.process_time() - start_s)


if __name__ == "__main__":
    rates = sorted(images_per_cpu_s() for _ in range(REPEATS))
    print(
        f"synthetic 32x32x3: {median(rates):,.0f} images/CPU-s (min {rates[0]:,.0f}, max {rates[-1]:,.0f}); claim 20,000"
    )
    write_result("generate", {"images_per_cpu_s": {"min": rates[0], "median": median(rates), "max": rates[-1]}})
