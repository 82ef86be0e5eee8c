"""prepare: data/raw, data/landed -> data/prepared. The data gate: it fails closed."""

from pathlib import Path
from typing import TYPE_CHECKING

from convloop.core.audit import audit
from convloop.core.folders import fresh_folder
from convloop.core.images import open_images
from convloop.core.prepared import write_prepared
from convloop.core.split import split_by_content
from convloop.core.takedown_list import read_takedown, refuse_listed
from convloop.errors import DataError

if TYPE_CHECKING:
    from convloop.config import Params
    from convloop.tracking import Tracker


def prepare(params: "Params", project: Path, tracker: "Tracker") -> None:
    """Split the images by their content, check them, and write statistics and card.

    Raises:
        DataError: a shard is damaged or holds what was taken down, or a finding blocks.
    """
    settings = params.prepare
    images = open_images(project / "data/raw", project / "data/landed")
    refuse_listed(images, read_takedown(project))
    splits_N = split_by_content(
        images.content_N, images.splits_N, val_share=settings.val_share, test_share=settings.test_share
    )
    findings = audit(images, splits_N, min_class_image_count=settings.min_class_image_count)
    blocking = [finding.message for finding in findings if finding.blocks]
    if blocking:
        listed = "\n  - ".join(blocking[:20])
        raise DataError(
            f"data/raw and data/landed: {len(blocking)} findings stop the pipeline.\n  - {listed}\n"
            "Mend the source or the key named, then run dvc repro"
        )
    warnings = [finding.message for finding in findings]
    with fresh_folder(project / "data/prepared") as folder:
        card = write_prepared(folder, images, splits_N, warnings)
    for warning in warnings:
        print(f"Warning: {warning}.")
    shares = ", ".join(f"{count:,} {name}" for name, count in card["split_image_count"].items())
    print(f"data/prepared splits {card['image_count']:,} images: {shares}.")
