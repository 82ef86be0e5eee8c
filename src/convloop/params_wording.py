"""Word what pydantic refuses: the key, what was received, what is allowed."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic_core import ErrorDetails

from convloop.config import Params
from convloop.params_file import FILE_NAME

_BOUNDS = {
    "greater_than_equal": "at least",
    "greater_than": "more than",
    "less_than_equal": "at most",
    "less_than": "less than",
}
_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "list_type": "a list, such as [32, 64]",
    "string_pattern_mismatch": "a name without / and :, and without spaces at its ends",
}


def lines_of(details: Sequence[Any]) -> list[str]:
    """Word each mistake in one line, also where a key may hold a number or a word."""
    lines: dict[str, str] = {}
    for detail in details:
        where = ".".join(_keys(detail))
        if where in lines and detail["type"] == "literal_error":
            lines[where] = f"{lines[where][:-1]}, or {detail['ctx']['expected']}."
        else:
            lines[where] = _message(detail)
    return list(lines.values())


def _keys(detail: ErrorDetails) -> list[str]:
    """Give the dotted place, without the marks that pydantic sets behind a key of two types."""
    keys = [str(part) for part in detail["loc"]]
    if detail["type"] != "extra_forbidden" and keys[-1].startswith(("constrained-", "literal[")):
        return keys[:-1]
    return keys


def _message(detail: ErrorDetails) -> str:
    keys = _keys(detail)
    where, received, context = ".".join(keys), detail["input"], detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return f"{FILE_NAME}: {where} is not a known key. {_nearest_key(keys)}"
        case "model_type" | "model_attributes_type":
            return f"{FILE_NAME}: {where} is {_shown(received)}, but must hold keys of its own. Known keys: {', '.join(_known_keys(keys))}."
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than" as kind:
            return f"{FILE_NAME}: {where} is {_shown(received)}; it must be {_BOUNDS[kind]} {next(iter(context.values())):.12g}."
        case "literal_error":
            return f"{FILE_NAME}: {where} is {_shown(received)}. Allowed: {context['expected']}."
        case "finite_number":
            return f"{FILE_NAME}: {where} is {_shown(received)}; it must be a finite number."
        case kind if kind in _KINDS:
            return f"{FILE_NAME}: {where} is {_shown(received)}; it must be {_KINDS[kind]}."
        case _:
            return f"{FILE_NAME}: {where} is {_shown(received)}; {detail['msg'][0].lower()}{detail['msg'][1:]}."


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _nearest_key(keys: list[str]) -> str:
    known = _known_keys(keys[:-1])
    near = get_close_matches(keys[-1], known, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {'.'.join([*keys[:-1], near[0]])}?"
    return f"Known keys there: {', '.join(known)}."


def _known_keys(keys: list[str]) -> list[str]:
    section: Any = Params
    for key in keys:
        if get_origin(section) is dict:
            section = get_args(section)[1]
            continue
        section = next(field.annotation for name, field in section.model_fields.items() if key in (name, field.alias))
    return [field.alias or name for name, field in section.model_fields.items()]
