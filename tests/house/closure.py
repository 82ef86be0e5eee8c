"""Which of our files a stage imports, and the dvc.yaml that follows from it."""

import ast
from pathlib import Path

from convloop.pipeline import STAGES, Stage

PROJECT = Path(__file__).parents[2]
SOURCE = PROJECT / "src"

PARAMS = {
    "generate": ["generate"],
    "prepare": ["prepare"],
    "train": ["train"],
    "evaluate": ["evaluate"],
    "register": ["register"],
}
METRICS = {"reports/evaluate/scores.json"}
PLOTS = {
    "reports/evaluate/history.png",
    "reports/train/history.csv",
    "reports/evaluate/classes.csv",
    "reports/evaluate/confusion.csv",
    "reports/evaluate/confusion.png",
    "reports/evaluate/worst.png",
}
NOT_CACHED = {"reports/register/verdict.json"}


def code_of(stage: Stage) -> list[str]:
    """List the files of ours that a stage runs, by following its imports."""
    seen: set[Path] = set()
    _follow(f"convloop.stages.{stage.name}", seen)
    return sorted(file.relative_to(PROJECT).as_posix() for file in seen)


def dvc_stage(stage: Stage) -> dict[str, object]:
    """Give the entry that dvc.yaml must hold for a stage."""
    entry: dict[str, object] = {
        "desc": stage.does,
        "cmd": f"exec python -m convloop {stage.name}",
        "deps": [*stage.reads, *code_of(stage)],
        "params": PARAMS[stage.name],
    }
    outs = [_out(path) for path in stage.writes if path not in METRICS | PLOTS]
    metrics = [path for path in stage.writes if path in METRICS]
    plots = [path for path in stage.writes if path in PLOTS]
    return entry | {key: value for key, value in (("outs", outs), ("metrics", metrics), ("plots", plots)) if value}


def _out(path: str) -> object:
    return {path: {"cache": False}} if path in NOT_CACHED else path


def _follow(module: str, seen: set[Path]) -> None:
    file = _file(module)
    if file is None or file in seen:
        return
    seen.add(file)
    for node in _running(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            _follow(name, seen)


def _running(tree: ast.AST) -> list[ast.AST]:
    """Walk all nodes but those under `if TYPE_CHECKING`, which never run."""
    nodes = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        nodes += [node, *_running(node)]
    return nodes


def _file(module: str) -> Path | None:
    """Find the source of a module of ours; package files that only hold a name do not count."""
    if not module.startswith("convloop."):
        return None
    place = SOURCE.joinpath(*module.split("."))
    if place.with_suffix(".py").is_file():
        return place.with_suffix(".py")
    package = place / "__init__.py"
    return package if package.is_file() and package.read_text(encoding="utf-8").strip() else None


if __name__ == "__main__":
    import sys

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump({name: dvc_stage(stage) for name, stage in STAGES.items()}, sys.stdout)
