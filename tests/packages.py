"""Packages with kinds of their own, as an installer leaves them: modules in a folder, and beside them what tells of them."""

from __future__ import annotations

import os
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "runbook-files"


def entry_points(groups: Mapping[str, Mapping[str, str]]) -> str:
    """The text of `entry_points.txt`."""
    blocks = (
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), ""])
        for group, points in groups.items()
    )
    return "\n".join(blocks)


def install(
    site: Path, name: str, version: str, groups: Mapping[str, Mapping[str, str]], **modules: str
) -> dict[str, str]:
    """Puts a package into the folder `site`; the environment in which it is found."""
    for old in site.glob(f"{name}-*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(entry_points(groups), encoding="utf-8")
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text, encoding="utf-8")
    return found_in(site)


def found_in(site: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}


def example_wheel(folder: Path) -> Path:
    """The example package as a wheel, made without any tool that may not be there."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted((EXAMPLE / "src").rglob("*.py*")):
            if "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(EXAMPLE / "src").as_posix())
        metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        archive.writestr(f"{stem}.dist-info/METADATA", metadata)
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/entry_points.txt", entry_points(project["entry-points"]))
    return wheel
