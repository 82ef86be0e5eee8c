"""prepare: data/raw, data/landed -> data/prepared, reports/prepare. The data gate: it fails closed."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convloop.core.audit import Expected, Finding, Group, audit
from convloop.core.folders import fresh_folder
from convloop.core.images import NO_SPLIT, Images, open_images, read_manifest
from convloop.core.label_errors import LabelErrors, find_label_errors
from convloop.core.looks import measure_looks
from convloop.core.prepared import write_prepared
from convloop.core.split import freeze_test_set, leave_out_near_twins, split_by_content, versions_of_test
from convloop.core.takedown_list import read_takedown, refuse_listed
from convloop.core.twins import NearTwins, find_near_twins
from convloop.errors import DataError
from convloop.reporting.data_pages import split_name, write_card_page, write_gate_report

if TYPE_CHECKING:
    from convloop.config import Params, PrepareParams
    from convloop.tracking import Tracker

_DATA = ("data/raw", "data/landed")
_NOT_OF_SOURCE = ("format", "classes", "shards")
_LISTED_NAMES = 20


def prepare(params: "Params", project: Path, tracker: "Tracker") -> None:
    """Split the images by their content, check them, and write statistics, card and report.

    Raises:
        DataError: a shard is damaged or holds what was taken down, or a finding blocks; reports/prepare shows which.
    """
    settings = params.prepare
    images = open_images(*(project / folder for folder in _DATA))
    refuse_listed(images, read_takedown(project))
    twins = find_near_twins(images)
    splits_N, findings = _split(images, twins, settings)
    looks_N3 = measure_looks(images)
    labels = find_label_errors(images, max_image_count=settings.label_check_image_count)
    findings += audit(images, splits_N, twins, looks_N3, labels, _expected(settings))
    sources = [_source(project, folder) for folder in _DATA]
    refused_count = sum(int(source.get("refused_count", 0)) for source in sources)
    if refused_count:
        findings.append(Finding("refused", False, f"{refused_count:,} files were refused: data/raw/refused.csv"))
    blocking = [finding.message for finding in findings if finding.blocks]
    warnings = [finding.message for finding in findings if not finding.blocks]
    # The report is written first and kept when the gate stops the pipeline: it says what to mend.
    with fresh_folder(project / "reports/prepare") as report:
        _write_report(report, images, splits_N, twins, findings, labels)
        if not blocking:
            with fresh_folder(project / "data/prepared") as folder:
                facts = {"sources": sources, "refused_image_count": refused_count, "warnings": warnings}
                card = write_prepared(folder, images, splits_N, looks_N3, facts)
            write_card_page(report / "card.html", images, splits_N, card)
    for warning in warnings:
        print(f"Warning: {warning}.")
    if blocking:
        listed = "\n  - ".join(blocking[:_LISTED_NAMES])
        raise DataError(
            f"data/raw and data/landed: {_many(len(blocking), 'finding stops', 'findings stop')} the pipeline.\n"
            f"  - {listed}\nLook at reports/prepare/report.html, mend the source or the key named, then run dvc repro"
        )
    shares = ", ".join(f"{count:,} {name}" for name, count in card["split_image_count"].items())
    left_out = f", {card['left_out_image_count']:,} left out" if card["left_out_image_count"] else ""
    print(f"data/prepared splits {card['image_count']:,} images: {shares}{left_out}.")


def _split(images: Images, twins: NearTwins, settings: "PrepareParams") -> tuple[NDArray[np.int8], list[Finding]]:
    splits_N = split_by_content(
        images.content_N,
        images.splits_N,
        images.arrivals_N,
        val_share=settings.val_share,
        test_share=settings.test_share,
    )
    splits_N = leave_out_near_twins(splits_N, images.splits_N, images.arrivals_N, images.content_N, twins.pairs_P2)
    if settings.test_sha256 is None:
        return splits_N, []
    versions = versions_of_test(splits_N, images.arrivals_N, images.content_N)
    for version in versions:
        if version.sha256 == settings.test_sha256:
            return freeze_test_set(splits_N, images.arrivals_N, version), []
    now = f"version {versions[-1].version} is {versions[-1].sha256}" if versions else "there is none"
    message = f"the test set is not the one of prepare.test_sha256, {settings.test_sha256}; {now}"
    return splits_N, [Finding("frozen_test_set", True, message)]


def _expected(settings: "PrepareParams") -> Expected:
    return Expected(
        settings.min_class_image_count,
        tuple(settings.classes) if settings.classes else None,
        settings.original_px_range,
        settings.brightness_range,
        tuple(settings.original_modes) if settings.original_modes else None,
        settings.val_share,
        settings.test_share,
        settings.max_doubtful_share,
    )


def _source(project: Path, folder: str) -> dict[str, Any]:
    """Say where the images of a folder come from, as far as its manifest knows."""
    manifest = read_manifest(project / folder)
    count = sum(int(shard["image_count"]) for shard in manifest["shards"])
    known = {key: value for key, value in manifest.items() if key not in _NOT_OF_SOURCE}
    arrivals = [
        {key: value for key, value in shard.items() if not key.endswith("_sha256")}
        for shard in manifest["shards"]
        if "ingested_utc" in shard
    ]
    if arrivals:
        known["arrivals"] = arrivals
    return {"folder": folder, "image_count": count, "shard_count": len(manifest["shards"]), **known}


def _write_report(
    report: Path,
    images: Images,
    splits_N: NDArray[np.int8],
    twins: NearTwins,
    findings: list[Finding],
    labels: LabelErrors,
) -> None:
    near = {
        "pair_count": len(twins.pairs_P2),
        "searched_distance_bits": twins.distance_bits,
        "false_share_of_random_pairs": twins.false_share,
        "left_out_image_count": int((splits_N == NO_SPLIT).sum()),
    }
    doubted = {
        "examined_image_count": labels.examined_count,
        "suspect_count": len(labels.suspects_S),
        "simple_model_accuracy": labels.accuracy,
    }
    summary = {
        "passed": not any(finding.blocks for finding in findings),
        "image_count": len(images),
        "findings": [
            {
                "rule": finding.rule,
                "blocks": finding.blocks,
                "message": finding.message,
                "offender_count": len(finding.offenders),
                "first_names": [
                    [str(images.names_N[index]) for index in group] for group in finding.offenders[:_LISTED_NAMES]
                ],
            }
            for finding in findings
        ],
        "near_twins": near,
        "label_errors": doubted,
    }
    (report / "report.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = [*findings, Finding("near_twin_left_out", False, "", _left_out(splits_N, twins))]
    _write_offenders(report / "offenders.csv", images, splits_N, shown, labels)
    figures = [
        ("images", f"{len(images):,}"),
        ("near-twin pairs", f"{near['pair_count']:,}"),
        ("left out", f"{near['left_out_image_count']:,}"),
        ("doubtful labels", f"{len(labels.suspects_S):,}"),
    ]
    write_gate_report(
        report / "report.html", images, splits_N, findings, _left_out(splits_N, twins), labels, figures, _doubt(labels)
    )


def _left_out(splits_N: NDArray[np.int8], twins: NearTwins) -> tuple[Group, ...]:
    """Pair each near-twin that is left out with its other."""
    out_P = (splits_N[twins.pairs_P2] == NO_SPLIT).any(1)
    return tuple((left, right) for left, right in twins.pairs_P2[out_P].tolist())


def _write_offenders(
    file: Path, images: Images, splits_N: NDArray[np.int8], findings: list[Finding], labels: LabelErrors
) -> None:
    """List every image that a finding is about; twins share a group."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["rule", "group", "name", "class", "split", "note"])
        for finding in findings:
            for number, group in enumerate(finding.offenders, start=1):
                for index in group:
                    writer.writerow([finding.rule, number, *_columns(images, splits_N, index), ""])
        suspects = zip(labels.suspects_S.tolist(), labels.suggested_S.tolist(), strict=True)
        for number, (index, other) in enumerate(suspects, start=1):
            columns = _columns(images, splits_N, index)
            writer.writerow(["label_error", number, *columns, f"looks {images.classes[other]}"])


def _columns(images: Images, splits_N: NDArray[np.int8], index: int) -> tuple[str, str, str]:
    return str(images.names_N[index]), images.classes[images.labels_N[index]], split_name(int(splits_N[index]))


def _doubt(labels: LabelErrors) -> str:
    if not labels.examined_count:
        return "Not looked for."
    if not len(labels.suspects_S):
        return (
            f"None among {labels.examined_count:,} images examined by a simple model, which names {labels.accuracy:.0%} of "
            "their labels; below one half it suspects nobody."
        )
    return (
        f"{_many(len(labels.suspects_S), 'label', 'labels')} of {labels.examined_count:,} examined: a simple model that "
        f"names {labels.accuracy:.0%} of the labels, and had not seen these, is sure of another class. Most of them are "
        "right all the same; the surest come first, and offenders.csv lists all."
    )


def _many(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
