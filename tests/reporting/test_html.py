"""The report is one page that needs nothing from elsewhere."""

import re
from pathlib import Path

from PIL import Image

from convloop.reporting.html import write_report


def _page(tmp_path: Path, class_name: str = "cat") -> str:
    Image.new("L", (4, 4)).save(tmp_path / "picture.png")
    write_report(
        tmp_path / "report.html",
        title="Title",
        subtitle="Subtitle",
        figures=[("accuracy", "0.900")],
        classes=[{"name": class_name, "images": 3, "precision": "1.000", "recall": "0.500", "f1": "0.667"}],
        pictures=[("Confusion", tmp_path / "picture.png")],
    )
    return (tmp_path / "report.html").read_text()


def test_report_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    sources = re.findall(r'(?:src|href)="([^"]*)"', _page(tmp_path))

    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_report_shows_figures_and_classes(tmp_path: Path) -> None:
    page = _page(tmp_path)

    assert "<b>0.900</b>accuracy" in page
    assert "<td>cat</td><td>3</td><td>1.000</td>" in page


def test_class_names_cannot_bring_markup_into_the_report(tmp_path: Path) -> None:
    assert "<script>" not in _page(tmp_path, "<script>alert(1)</script>")
