"""Write docs/params.md from the Params tree, so that it is never typed twice: make docs."""

import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic.fields import FieldInfo

from convloop.config import Params, Section

_SIGNS = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le"), Lt: ("<", "lt")}
_HEAD = """# Every key of params.yaml

Made by `make docs` from `src/convloop/config.py`. A key that params.yaml leaves out has the default below; a key that
is not here is refused. A `_share` lies between 0 and 1, a `_px` counts pixels, a `_s` seconds.

One run with another value: `convloop train --set train.lr=0.01`. An experiment that DVC keeps:
`dvc exp run -S train.lr=0.01`; a key that params.yaml does not spell out yet is added with a plus:
`dvc exp run -S +train.net.pool=average -S train.net.name=cnn`.
"""


def page() -> str:
    lines = [_HEAD]
    for name, field in Params.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        lines += [f"## {field.alias or name}", "", "| key | default | allowed | meaning |", "| --- | --- | --- | --- |"]
        lines += [*_rows(section, f"{field.alias or name}."), ""]
    return "\n".join(lines)


def _rows(section: type[Section], prefix: str) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            rows += _rows(field.annotation, f"{prefix}{name}.")
        else:
            default = "" if field.default is None else f"`{_shown(field.default)}`"
            rows.append(f"| `{prefix}{name}` | {default} | {_allowed(field)} | {field.description or ''} |")
    return rows


def _shown(default: Any) -> Any:
    """Write nested sections as params.yaml would."""
    if not isinstance(default, dict):
        return default
    sections = {key: section.model_dump(exclude_defaults=True) for key, section in default.items()}
    return str(sections).replace("'", "").replace("True", "true")


def _allowed(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(bound, attribute):,.10g}"
        for bound in _bounds(field.annotation, field.metadata)
        for kind, (sign, attribute) in _SIGNS.items()
        if isinstance(bound, kind)
    ]
    return ", ".join([_kind(field.annotation), *bounds])


def _bounds(annotation: Any, metadata: list[Any]) -> list[Any]:
    inner = [bound for part in get_args(annotation) if hasattr(part, "__metadata__") for bound in _flat(part)]
    return [bound for bound in [*metadata, *inner] if not isinstance(bound, MinLen | MaxLen)]


def _flat(part: Any) -> list[Any]:
    return [bound for info in part.__metadata__ for bound in getattr(info, "metadata", [info])]


def _kind(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if hasattr(annotation, "__metadata__"):
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return "keys with values of their own"
    if get_origin(annotation) is list:
        return f"list of {_kind(get_args(annotation)[0])}s"
    names = {int: "whole number", float: "number", str: "text", type(None): ""}
    if annotation in names:
        return names[annotation]
    return " or ".join(kind for kind in (_kind(part) for part in get_args(annotation)) if kind)


if __name__ == "__main__":
    if "--print" in sys.argv:
        sys.stdout.write(page())
    else:
        (Path(__file__).parent / "params.md").write_text(page(), encoding="utf-8")
