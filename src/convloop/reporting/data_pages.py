"""Two pages on the data: what the gate found, with pictures of the offenders, and the card; readable without a network."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convloop.core.audit import Finding, Group
from convloop.core.images import NO_SPLIT, SPLITS, Images
from convloop.core.label_errors import LabelErrors

_SHOWN_GROUP_COUNT = 24
_SHOWN_IMAGE_COUNT = 4  # of one group
_SHOWN_SUSPECT_COUNT = 48
_SAMPLED_IMAGE_COUNT = 8  # of each class, in the card
_MOST_SAMPLED_CLASSES = 100
_THUMB_PX = 96
_SHOWN_ARRIVAL_COUNT = 50  # the latest

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem; overflow-wrap: anywhere }
.figures { display: flex; gap: 1rem 2.5rem; flex-wrap: wrap } .figures b { display: block; font-size: 1.7rem }
table { border-collapse: collapse } th, td { padding: .25rem .9rem; border-bottom: 1px solid #d9dee3; text-align: right }
th:first-child, td:first-child { text-align: left } code { overflow-wrap: anywhere }
.stops { color: #b3261e } .warns { color: #9a5b00 } .passes { color: #1a7f37 }
.groups { display: flex; gap: .9rem; flex-wrap: wrap; margin: .6rem 0 }
.group { display: flex; flex-wrap: wrap; gap: .3rem; border: 1px solid #d9dee3; padding: .3rem; border-radius: 4px }
figure { margin: 0; width: 96px; font-size: .7rem; line-height: 1.25; overflow-wrap: anywhere }
img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated; background: #f0f2f4; outline: 1px solid #d9dee3 }
li { margin: .2rem 0; overflow-wrap: anywhere }
</style></head><body>
{% macro shown(groups) %}<div class="groups">{% for group in groups %}<div class="group">{% for image in group %}
<figure><img alt="" src="data:image/png;base64,{{ image.picture }}"><figcaption>{{ image.text }}</figcaption></figure>
{% endfor %}</div>{% endfor %}</div>{% endmacro %}
<h1>{{ title }}</h1>
"""

_REPORT = (
    _HEAD
    + """
<p class="{{ 'passes' if passed else 'stops' }}">{{ verdict }}</p>
<div class="figures">{% for name, value in figures %}<div><b>{{ value }}</b>{{ name }}</div>{% endfor %}</div>
{% for kind, word, plain, pictured in sections %}
{% if plain %}<h2 class="{{ kind }}">{{ word }}</h2><ul class="{{ kind }}">{% for message in plain %}<li>{{ message }}</li>
{% endfor %}</ul>{% endif %}
{% for finding in pictured %}
<h2 class="{{ kind }}">{{ word }}: {{ finding.message }}</h2>
{{ shown(finding.groups) }}
{% if finding.further %}<p>and {{ finding.further }} more: offenders.csv</p>{% endif %}
{% endfor %}{% endfor %}
{% if left_out %}<h2>Left out: near-twins of an image on another side</h2>{{ shown(left_out) }}{% endif %}
<h2>Labels worth a look</h2>
<p>{{ doubt }}</p>
{{ shown(suspects) }}
</body></html>
"""
)

_CARD = (
    _HEAD
    + """
<div class="figures">{% for name, value in figures %}<div><b>{{ value }}</b>{{ name }}</div>{% endfor %}</div>
<h2>Classes</h2>
<table><tr><th>class</th>{% for name in splits %}<th>{{ name }}</th>{% endfor %}</tr>
{% for name, counts in card.class_image_count.items() %}<tr><td>{{ name }}</td>
{% for split in splits %}<td>{{ "{:,}".format(counts[split]) }}</td>{% endfor %}</tr>
{% endfor %}</table>
<h2>Facts</h2>
<table>{% for name, value in facts %}<tr><td>{{ name }}</td><td style="text-align: left"><code>{{ value }}</code></td></tr>
{% endfor %}</table>
{% if card.warnings %}<h2>Warnings</h2><ul>{% for warning in card.warnings %}<li>{{ warning }}</li>{% endfor %}</ul>{% endif %}
<h2>Training images</h2>
{{ shown(samples) }}
</body></html>
"""
)


def write_gate_report(
    file: Path,
    images: Images,
    splits_N: NDArray[np.int8],
    findings: list[Finding],
    left_out: tuple[Group, ...],
    labels: LabelErrors,
    figures: list[tuple[str, str]],
    doubt: str,
) -> None:
    """Write the page on what the gate found.

    Args:
        left_out: pairs of near-twins of which at least one is left out.
        figures: headline numbers, already formatted.
        doubt: what to say of suspected label errors.
    """
    blocking = sum(finding.blocks for finding in findings)
    suspects = [
        [
            _shown(
                images, int(index), f"labelled {images.classes[images.labels_N[index]]}, looks {images.classes[other]}"
            )
        ]
        for index, other in zip(labels.suspects_S[:_SHOWN_SUSPECT_COUNT], labels.suggested_S, strict=False)
    ]
    _write(
        file,
        _REPORT,
        title="Data gate",
        passed=not blocking,
        verdict="The data pass."
        if not blocking
        else f"{_many(blocking, 'finding stops', 'findings stop')} the pipeline.",
        figures=figures,
        sections=[
            _section("stops", "Stops", images, splits_N, [finding for finding in findings if finding.blocks]),
            _section("warns", "Warning", images, splits_N, [finding for finding in findings if not finding.blocks]),
        ],
        left_out=[_group(images, splits_N, group) for group in left_out[:_SHOWN_GROUP_COUNT]],
        doubt=doubt,
        suspects=suspects,
    )


def _section(
    kind: str, word: str, images: Images, splits_N: NDArray[np.int8], findings: list[Finding]
) -> tuple[str, str, list[str], list[dict[str, Any]]]:
    """Part findings that can only be said from those that have pictures."""
    plain = [finding.message for finding in findings if not finding.offenders]
    pictured = [
        {
            "message": finding.message,
            "groups": [_group(images, splits_N, group) for group in finding.offenders[:_SHOWN_GROUP_COUNT]],
            "further": len(finding.offenders[_SHOWN_GROUP_COUNT:]),
        }
        for finding in findings
        if finding.offenders
    ]
    return kind, word, plain, pictured


def write_card_page(file: Path, images: Images, splits_N: NDArray[np.int8], card: dict[str, Any]) -> None:
    """Write the data card as a page, with a few training images of each class."""
    samples = []
    for label, name in list(enumerate(images.classes))[:_MOST_SAMPLED_CLASSES]:
        indices = np.flatnonzero((splits_N == SPLITS.index("train")) & (images.labels_N == label))
        chosen = indices[:: max(1, len(indices) // _SAMPLED_IMAGE_COUNT)][:_SAMPLED_IMAGE_COUNT]
        samples.append([_shown(images, int(index), name) for index in chosen])
    counts = card["split_image_count"]
    _write(
        file,
        _CARD,
        title="Data card",
        card=card,
        splits=SPLITS,
        figures=[
            ("images", f"{card['image_count']:,}"),
            ("classes", f"{len(images.classes):,}"),
            *((name, f"{counts[name]:,}") for name in SPLITS),
            ("left out", f"{card['left_out_image_count']:,}"),
        ],
        facts=list(_facts(card)),
        samples=samples,
    )


def _facts(card: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "pixels", " x ".join(str(side) for side in card["shape_HWC"])
    original = card["original_px"]
    yield (
        "original sides, px",
        f"{original['smallest_side']} to {original['largest_side']}, median of the smaller "
        f"{original['median_smaller_side']:g}",
    )
    yield "original modes", ", ".join(f"{mode} {count:,}" for mode, count in card["original_modes"].items())
    yield "channel means of train", ", ".join(f"{value:.2f}" for value in card["mean_C"])
    yield "channel deviations of train", ", ".join(f"{value:.2f}" for value in card["std_C"])
    yield "looks, means", ", ".join(f"{name} {value:.1f}" for name, value in card["looks"].items())
    for source in card["sources"]:
        plain = {key: value for key, value in source.items() if key not in ("folder", "arrivals")}
        yield source["folder"], ", ".join(f"{key} {value}" for key, value in plain.items())
        for arrival in source.get("arrivals", [])[-_SHOWN_ARRIVAL_COUNT:]:
            yield (
                f"arrival {arrival['ingested_utc']}",
                ", ".join(f"{key} {value}" for key, value in arrival.items() if key != "ingested_utc"),
            )
    for one in card["test_versions"]:
        yield f"test set, version {one['version']}", f"{one['image_count']:,} images, {one['sha256']}"
    yield "all images", card["content_sha256"]


def _group(images: Images, splits_N: NDArray[np.int8], group: Group) -> list[dict[str, str]]:
    return [
        _shown(
            images,
            index,
            f"{images.names_N[index]} ({images.classes[images.labels_N[index]]}, {split_name(splits_N[index])})",
        )
        for index in group[:_SHOWN_IMAGE_COUNT]
    ]


def split_name(split: int) -> str:
    """Name a split, or say that an image is left out."""
    return "left out" if split == NO_SPLIT else SPLITS[split]


def _shown(images: Images, index: int, text: str) -> dict[str, str]:
    from PIL import Image

    picture = Image.fromarray(images.take(np.array([index]))[0].squeeze())
    picture.thumbnail((_THUMB_PX, _THUMB_PX))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    breakable = text.replace("/", "/\u200b")  # a zero-width space: a name breaks behind its folders first
    return {"picture": base64.b64encode(stream.getvalue()).decode(), "text": breakable}


def _many(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _write(file: Path, template: str, **values: Any) -> None:
    from jinja2 import Environment

    file.write_text(Environment(autoescape=True).from_string(template).render(**values), encoding="utf-8")
