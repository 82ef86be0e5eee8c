"""Where a benchmark writes what it measured."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def write_result(name: str, figures: dict[str, Any], device: str | None = None) -> None:
    """Keep figures with date and machine, which goes by `device` where that is not the processor; print where."""
    processor = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    plain = "".join(letter if letter.isalnum() else "-" for letter in device or processor).strip("-").lower()
    file = Path(__file__).parent / "results" / f"{datetime.now(UTC):%Y-%m-%d}-{plain}-{name}.json"
    file.parent.mkdir(exist_ok=True)
    facts = {"processor": processor, "cores": os.cpu_count(), **({"device": device} if device else {}), **figures}
    file.write_text(json.dumps(facts, indent=1) + "\n")
    print(f"written: {file.relative_to(Path(__file__).parents[1])}")


def _cpu_lines() -> list[str]:
    info = Path("/proc/cpuinfo")
    return info.read_text().splitlines() if info.is_file() else []
