"""What is asked for and in which exact versions; as a script it makes their files anew.

``constraints.txt`` holds one version of every package that the runtime and all extras come to, and
``conda.yaml`` repeats those of the runtime for ``mlflow run``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS, CONDA = ROOT / "constraints.txt", ROOT / "conda.yaml"

HELD = "torch==2.13.*"
"""What is not taken at its newest: the release that everything was measured with."""

TORCHS_OWN = re.compile("(nvidia|cuda|triton)")
"""Packages that one build of torch asks for, in versions that it pins itself."""

HEAD = """\
# The versions that everything was tested with, by `make versions`. pyproject.toml has the ranges.
"""


def asked(extra: str = "") -> list[Requirement]:
    """What pyproject.toml asks for: the runtime's, or those of an extra alone."""
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return [Requirement(line) for line in lines]


def pinned() -> dict[str, str]:
    """The version of each package in constraints.txt, on this machine."""
    here = [Requirement(line) for line in lines_of(CONSTRAINTS)]
    here = [one for one in here if one.marker is None or one.marker.evaluate()]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in here}


def lines_of(path: Path) -> list[str]:
    """The lines of a file of requirements but for its comments."""
    return [line for line in path.read_text().splitlines() if line and line[0] != "#"]


def conda_lines() -> list[str]:
    """What conda.yaml hands to pip."""
    conda = yaml.safe_load(CONDA.read_text())
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    return list(pip)


def closure(extra: str = "") -> set[str]:
    """Names of all installed packages that the runtime and an extra come to on this machine."""
    found: set[tuple[str, str]] = set()
    ahead = [*asked(), *(asked(extra) if extra else [])]
    while ahead:
        needed = ahead.pop()
        name = canonicalize_name(needed.name)
        new = {(name, one) for one in {"", *needed.extras}} - found
        found |= new
        ahead += [inner for _, one in new for inner in _needs(name, one)]
    return {name for name, _ in found}


@cache
def _needs(name: str, extra: str) -> list[Requirement]:
    """What an installed package asks for here, with an extra of its own."""
    try:
        lines = [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError:  # a build of torch for this machine asks for less
        return []
    return [one for one in lines if one.marker is None or one.marker.evaluate({"extra": extra})]


@cache
def owners_of() -> dict[str, list[str]]:
    """Which packages bring each installed module; reading all their files takes a second."""
    return dict(packages_distributions())


def top_level(names: set[str]) -> set[str]:
    """Modules that installed packages bring."""
    return {
        module
        for module, owners in owners_of().items()
        if names & {canonicalize_name(owner) for owner in owners}
    }


def distributions(names: set[str]) -> list[str]:
    """What installed packages call themselves, Flask for flask."""
    owners = {owner for owners in owners_of().values() for owner in owners}
    return sorted(owner for owner in owners if canonicalize_name(owner) in names)


def _compiled(*options: str) -> list[str]:
    """Resolve pyproject.toml for every supported Python and platform."""
    command = ["uv", "pip", "compile", "pyproject.toml", "-", *options, "--universal"]
    command += ["--python-version", "3.11", "--strip-extras", "--no-annotate", "--no-header", "-q"]
    done = subprocess.run(
        command, cwd=ROOT, input=HELD, stdout=subprocess.PIPE, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if not TORCHS_OWN.match(line)]


def main() -> None:
    """Make both files anew, with the newest versions that the ranges allow."""
    CONSTRAINTS.write_text(HEAD + "\n".join(_compiled("--all-extras")) + "\n")
    runtime = _compiled("--constraints", str(CONSTRAINTS))
    head, _, _ = CONDA.read_text().partition("  - pip:\n")
    listed = "".join(f"      - {line}\n" for line in runtime)
    CONDA.write_text(f"{head}  - pip:\n{listed}")
    print(f"{len(pinned())} packages, {len(conda_lines())} of them of the runtime", file=sys.stderr)


if __name__ == "__main__":
    main()
