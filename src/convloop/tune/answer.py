"""The answer of every finder: a patch of params.yaml, and what to type to try it or to keep it."""

from pathlib import Path
from typing import Any

from convloop.core.folders import write_text
from convloop.errors import ParamsError
from convloop.params_check import check
from convloop.params_file import FILE_NAME, flatten, read_tree, with_value, write_values

FOLDER = Path("work") / "tune"
_ORDER = check({}).model_dump(by_alias=True)  # as docs/params.md lists them


def give_answer(project: Path, what: str, values: dict[str, Any], *, apply: bool) -> None:
    """Write work/tune/<what>/patch.yaml and print how to use it; with `apply`, write params.yaml as well.

    Args:
        values: dotted key -> plain value.
    """
    file = project / FOLDER / what / "patch.yaml"
    write_text(file, "")
    write_values(file, values, _ORDER)
    if apply:
        apply_patch(project, file)
        return
    print(f"{file.relative_to(project)}: {' '.join(said(values))}")
    if not _is_of_the_gate(values):  # experiments are not judged
        print(f"Try it: dvc exp run {' '.join(f'-S {word}' for word in said(values))}")
    print(f"Write it into {FILE_NAME}: convloop tune apply {file.relative_to(project)}")


def apply_patch(project: Path, patch: Path) -> None:
    """Write the values of a patch into params.yaml, whose comments stay.

    Raises:
        ParamsError: there is no such patch, or params.yaml would be refused with it; then nothing is written.
    """
    if not patch.is_file():
        raise ParamsError(f"{patch} is missing. Make one: convloop tune lr")
    values = dict(flatten(read_tree(patch)))
    tree = read_tree(project / FILE_NAME)
    for key, value in values.items():
        with_value(tree, key, value)
    check(tree)
    write_values(project / FILE_NAME, values, _ORDER)
    does = "Judge" if _is_of_the_gate(values) else "Train"
    print(f"{FILE_NAME} now has {' '.join(said(values))}. {does} with it: dvc repro")


def _is_of_the_gate(values: dict[str, Any]) -> bool:
    return all(key.startswith("register.") for key in values)


def said(values: dict[str, Any]) -> list[str]:
    """Write values as `--set` and `dvc exp run -S` take them."""
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
