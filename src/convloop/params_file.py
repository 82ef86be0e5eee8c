"""Read params.yaml as DVC reads it, and refuse what is not a plain tree of keys and values."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from convloop.errors import ParamsError

FILE_NAME = "params.yaml"
_MAX_FILE_BYTES = 100_000
_MAX_DEPTH = 20


def read_tree(file: Path) -> dict[str, Any]:
    """Read a file into plain values.

    Raises:
        ParamsError: it is missing, too large, not UTF-8, not YAML, repeats a key, uses an alias or nests without end.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(
            f"{file} is missing. Go to the project's folder, or restore it: git checkout {FILE_NAME}"
        ) from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{file.name}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from None
    if len(text) > _MAX_FILE_BYTES:
        raise ParamsError(f"{file.name} holds {len(text):,} characters; at most {_MAX_FILE_BYTES:,} are read.")
    try:
        _refuse_bombs(file, text)
        tree = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        problem = (error.problem or "broken YAML").split("\n")[0]
        raise ParamsError(f"{file.name}: {place}: {problem}. Mend that line.") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ParamsError(f"{file.name}: {str(error).splitlines()[0]}. Mend the YAML.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ParamsError(
            f"{file.name} holds a {type(tree).__name__}; it must hold sections such as train: with keys below."
        )
    return tree


def _refuse_bombs(file: Path, text: str) -> None:
    """Refuse what makes a small file huge or slow to load: aliases, and nesting that no key here needs."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, AliasEvent):
            raise ParamsError(f"{file.name} uses a YAML alias (*name). Write the value out instead.")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ParamsError(f"{file.name} nests more than {_MAX_DEPTH} levels; its keys need three.")


def override(tree: dict[str, Any], assignment: str) -> None:
    """Set one key from `section.key=value`, whose value is read as YAML.

    Raises:
        ParamsError: it is not of that form.
    """
    dotted, equals, text = assignment.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ParamsError(f'--set is "{assignment}", but needs section.key=value, such as --set train.lr=0.01')
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError):
        raise ParamsError(
            f'--set {dotted} is "{text}", which is not a YAML value. Quote it: --set \'{dotted}="..."\''
        ) from None
    for key in keys[:-1]:
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            raise ParamsError(f"{FILE_NAME}: {dotted} cannot be set, since {key} is a value and holds no keys.")
        tree = below
    tree[keys[-1]] = value


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """List the values of nested sections under dotted keys."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def with_value(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Set a dotted key in nested sections, and give them back."""
    *above, last = key.split(".")
    section = tree
    for name in above:
        section = section.setdefault(name, {})
    section[last] = value
    return tree


def write_values(file: Path, values: dict[str, Any], order: dict[str, Any]) -> None:
    """Set keys in a params file and leave its comments, its order and its other lines as they are.

    Args:
        values: dotted key -> plain value; sections that are not there yet are added.
        order: nested keys in the order in which those that are not there yet take their place.

    Raises:
        ParamsError: the file cannot be read, or a key on the way holds a value.
    """
    read_tree(file)
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    root = yaml.load(file.read_text(encoding="utf-8"))
    tree = CommentedMap() if root is None else root
    for dotted, value in values.items():
        *above, last = dotted.split(".")
        section, ordered = tree, order
        for key in above:
            if key not in section:
                _add(section, key, CommentedMap(), list(ordered))
            section, ordered = section[key], ordered.get(key, {})
            if not isinstance(section, CommentedMap):
                raise ParamsError(f"{file.name}: {dotted} cannot be set, since {key} is a value and holds no keys.")
        _add(section, last, value, list(ordered))
    text = StringIO()
    yaml.dump(tree, text)
    building = file.with_name(f"{file.name}.tmp")
    building.write_text(text.getvalue(), encoding="utf-8")
    building.replace(file)


def _add(section: CommentedMap, key: str, value: Any, order: list[str]) -> None:
    """Set a key; a new one comes behind those that `order` has before it."""
    if key in section:
        section[key] = value
        return
    earlier = order[: order.index(key)] if key in order else list(section)
    place = max((number for number, name in enumerate(section, 1) if name in earlier), default=0)
    # The blank line behind a section belongs to its last key, which therefore stays the last.
    section.insert(min(place, len(section) - _ends_blank(section)), key, value)


def _ends_blank(section: CommentedMap) -> bool:
    """Tell whether a blank line or a comment on a line of its own follows a section's last key."""
    if not section:
        return False
    last = next(reversed(section))
    tokens = [token for token in section.ca.items.get(last, []) if token is not None]
    if any("\n" in token.value[:-1] for token in tokens):
        return True
    return isinstance(section[last], CommentedMap) and _ends_blank(section[last])
