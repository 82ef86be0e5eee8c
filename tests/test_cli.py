"""Words and exit codes."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convloop import __version__, errors
from convloop.cli import main
from convloop.pipeline import STAGES


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """Give SIGTERM back to pytest, since `main` takes it over."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _python(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def _said(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_without_a_word_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert _said(capsys)[0].startswith("usage: convloop [-h] [--version] COMMAND ...")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert _said(capsys) == (f"convloop {__version__}\n", "")


def test_the_help_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    text = _said(capsys)[0].partition("exit codes:")[2]
    codes = {kind.exit_code for kind in errors.ConvloopError.__subclasses__()}
    assert codes < {int(code) for code in re.findall(r"(\d+) \w", text)}


def test_every_error_has_an_exit_code_of_its_own() -> None:
    codes = [errors.ConvloopError.exit_code, *(kind.exit_code for kind in errors.ConvloopError.__subclasses__())]
    assert len(set(codes)) == len(codes)


def test_an_unknown_word_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["trian"])
    assert ended.value.code == 2
    last = _said(capsys)[1].splitlines()[-1]
    assert last.startswith("convloop: error: argument COMMAND: invalid choice: 'trian' (choose from ")
    for word in (*STAGES, "run", "predict", "models", "ingest", "retrain", "schedule", "sync", "ui", "doctor"):
        assert re.search(rf"\b{word}\b", last)


@pytest.mark.parametrize("name", STAGES)
def test_the_help_of_a_stage_names_what_it_reads_and_writes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    lines = _said(capsys)[0].splitlines()
    assert f"Stage {name}: {STAGES[name].does}." in lines
    assert f"reads:  {', '.join(STAGES[name].reads) or 'its source'}" in lines
    assert f"writes: {', '.join(STAGES[name].writes)}" in lines


@pytest.mark.parametrize("words", [["prepare"], ["run"], ["models"], ["ingest"], ["predict", "x.png"], ["doctor"]])
def test_outside_a_project_the_way_in_is_told(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert _said(capsys) == (
        "",
        f"convloop: No params.yaml and dvc.yaml in {tmp_path} or above. "
        "Go to the project's folder: cd <clone of convloop>\n",
    )


def test_a_stage_says_what_it_has_made(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate"]) == 0
    assert _said(capsys) == ("data/raw holds 600 images of 3 classes from synthetic.\n", "")


def test_a_stage_finds_the_project_from_a_folder_below(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "data/landed")
    assert main(["generate"]) == 0
    assert (project / "data/raw/manifest.json").is_file()


def test_set_counts_for_this_run_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "params.yaml").read_text()
    assert main(["generate", "--set", "generate.image_count=60", "--set", "generate.class_count=2"]) == 0
    assert _said(capsys)[0] == "data/raw holds 60 images of 2 classes from synthetic.\n"
    assert (project / "params.yaml").read_text() == before


def test_a_mistake_in_the_params_exits_with_two(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--set", "train.lr=0"]) == 2
    assert _said(capsys) == ("", "convloop: params.yaml: train.lr is 0; it must be more than 0.\n")


def test_run_checks_the_params_before_its_first_stage(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--set", "train.lr=0"]) == 2
    assert _said(capsys) == ("", "convloop: params.yaml: train.lr is 0; it must be more than 0.\n")
    assert not (project / "data/raw").exists()


def test_missing_data_exit_with_three(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare"]) == 3
    assert _said(capsys) == (
        "",
        f"convloop: {project}/data/raw/manifest.json is missing. "
        "Make it: dvc repro generate (data/landed comes with git: git checkout).\n",
    )


def test_an_unwritable_place_exits_with_seven(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "data/raw").write_text("in the way")
    assert main(["generate"]) == 7
    assert _said(capsys) == (
        "",
        f"convloop: {project}/data/raw cannot be written: Not a directory. "
        f"Make it writable (ls -ld {project}/data; df -h {project}/data), then run the same command again.\n",
    )


def test_a_torchvision_for_another_torch_is_told(project: Path, tmp_path: Path) -> None:
    module = tmp_path / "torchvision"
    module.mkdir()
    (module / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")\n')
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from convloop.cli import main; sys.exit(main(['doctor']))"
    )

    ended = _python(code, project)

    assert ended.returncode == 4
    assert ended.stderr == (
        "convloop: torchvision is installed, but is built for another torch than the one here. Install the build that belongs "
        "to it, or remove what nothing but timm needs: .venv/bin/pip uninstall torchvision timm "
        "(operator torchvision::nms does not exist).\n"
    )


def test_importing_the_command_costs_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys, convloop.cli\n"
        "heavy = ('torch', 'lightning', 'mlflow', 'numpy', 'pydantic', 'scipy', 'matplotlib', 'ruamel', 'PIL', 'rich')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert _python(code, tmp_path).stdout == "[]\n"


def test_help_needs_no_framework(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from convloop.cli import main\n"
        "main([])\n"
        "print([name for name in ('torch', 'lightning', 'mlflow', 'numpy', 'pydantic') if name in sys.modules])"
    )
    assert _python(code, tmp_path).stdout.splitlines()[-1] == "[]"


def test_importing_the_package_imports_nothing_else(tmp_path: Path) -> None:
    code = "import sys, convloop\nprint(sorted(name for name in sys.modules if name.startswith('convloop')))"
    assert _python(code, tmp_path).stdout == "['convloop']\n"
