"""One HTML page on one model, with its pictures inside, readable without a network."""

import base64
from pathlib import Path
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.figures { display: flex; gap: 2.5rem; flex-wrap: wrap } .figures b { display: block; font-size: 1.7rem }
table { border-collapse: collapse } th, td { padding: .25rem .9rem; border-bottom: 1px solid #d9dee3; text-align: right }
th:first-child, td:first-child { text-align: left } img { max-width: 100% }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ subtitle }}</p>
<div class="figures">{% for name, value in figures %}<div><b>{{ value }}</b>{{ name }}</div>{% endfor %}</div>
<h2>Classes</h2>
<table><tr><th>class</th><th>images</th><th>precision</th><th>recall</th><th>F1</th></tr>
{% for row in classes %}<tr><td>{{ row.name }}</td><td>{{ row.images }}</td><td>{{ row.precision }}</td>
<td>{{ row.recall }}</td><td>{{ row.f1 }}</td></tr>
{% endfor %}</table>
{% for heading, picture in pictures %}<h2>{{ heading }}</h2>
<img alt="{{ heading }}" src="data:image/png;base64,{{ picture }}">
{% endfor %}</body></html>
"""


def write_report(
    file: Path,
    *,
    title: str,
    subtitle: str,
    figures: list[tuple[str, str]],
    classes: list[dict[str, Any]],
    pictures: list[tuple[str, Path]],
) -> None:
    """Write the page; `figures` are the headline numbers, already formatted."""
    from jinja2 import Environment

    encoded = [(heading, base64.b64encode(picture.read_bytes()).decode()) for heading, picture in pictures]
    page = Environment(autoescape=True).from_string(_PAGE)
    file.write_text(
        page.render(title=title, subtitle=subtitle, figures=figures, classes=classes, pictures=encoded),
        encoding="utf-8",
    )
