"""The wheel carries the linked folders as real files, their data, the licence and the command."""

from __future__ import annotations

import configparser
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("datamodules", "callbacks", "configs")
SOURCES = ("cair_lightning", *LINKED, "setup.cfg", "pyproject.toml", "LICENSE", "README.md")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """A wheel built from a copy of the sources, so that no build folder is left beside them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy2(ROOT / name, source / name)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    run = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = out.glob("cair_lightning-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def metadata(wheel: zipfile.ZipFile, name: str) -> str:
    (member,) = (m for m in wheel.namelist() if m.endswith(f".dist-info/{name}"))
    return wheel.read(member).decode()


def test_linked_folders_are_real_files_below_the_package(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel.namelist()} == {"cair_lightning"}
    assert not any(stat.S_ISLNK(member.external_attr >> 16) for member in wheel.infolist())
    for folder in LINKED:
        files = [path for end in ("py", "yaml") for path in (ROOT / folder).rglob(f"*.{end}")]
        expected = {f"cair_lightning/{path.relative_to(ROOT).as_posix()}" for path in files}
        assert expected <= set(wheel.namelist())


def test_every_module_and_every_data_file_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    files = [path for end in ("py", "jinja") for path in (ROOT / "cair_lightning").rglob(f"*.{end}")]
    expected = {path.relative_to(ROOT).as_posix() for path in files} | {"cair_lightning/py.typed"}
    assert "cair_lightning/structures.py" in expected
    assert expected <= set(wheel.namelist())


def test_licence_and_command(wheel: zipfile.ZipFile) -> None:
    assert metadata(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_text("utf-8")
    points = configparser.ConfigParser()
    points.read_string(metadata(wheel, "entry_points.txt"))
    assert points["console_scripts"]["cair"] == "cair_lightning.cli:main"


def test_metadata_names_licence_python_and_extras(wheel: zipfile.ZipFile) -> None:
    lines = metadata(wheel, "METADATA").splitlines()
    assert "License-Expression: Apache-2.0" in lines
    assert "Requires-Python: >=3.11" in lines
    extras = {line.removeprefix("Provides-Extra: ") for line in lines if line.startswith("Provides-Extra: ")}
    assert extras == {"deepspeed", "lora", "flash", "vllm", "world", "dev"}


def test_lock_names_no_place() -> None:
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 50
    assert [line for line in pins if "==" not in line] == []
    assert [line for line in lines if "://" in line or " @ " in line or "--" in line] == []
