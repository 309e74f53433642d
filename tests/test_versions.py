"""constraints-oldest.txt holds what pyproject.toml allows at least, and constraints.txt nothing that it forbids."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def of_extra(name: str) -> list[Requirement]:
    """What an extra requires, where it may require other extras of this project."""
    listed = [Requirement(text) for text in EXTRAS[name]]
    others = [
        needed for own in listed if own.name == PROJECT["name"] for extra in own.extras for needed in of_extra(extra)
    ]
    return [needed for needed in listed if needed.name != PROJECT["name"]] + others


NEEDED = [Requirement(text) for text in PROJECT["dependencies"]] + of_extra("dev")
FILES = sorted(path.name for path in ROOT.glob("constraints*.txt"))


def pinned(file: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): Version(version) for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("file", FILES)
def test_pins_are_allowed(file):
    versions = pinned(file)
    for needed in NEEDED:
        assert versions[needed.name.lower().replace("_", "-")] in needed.specifier, f"{file}: {needed}"


def test_the_oldest_are_the_lowest():
    """To the last number that pyproject.toml gives: >=2.0 is 2.0 with any patch."""
    versions = pinned("constraints-oldest.txt")
    for needed in NEEDED:
        (low,) = [Version(part.version) for part in needed.specifier if part.operator == ">="]
        found = versions[needed.name.lower().replace("_", "-")]
        assert found.release[: len(low.release)] == low.release, f"{needed}: {found}"
