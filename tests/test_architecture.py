"""Imports go one way, and what is promised about whole files holds.

Files are read, not imported: what is missing from an installation cannot hide an import, and one inside a function
counts like one at the top.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cair_lightning"
LINKED = ("datamodules", "callbacks", "configs")

RECORDS = {"structures", "parsing", "prompts", "clips", "clip_root"}
SCORES = {"rewards", "losses", "metrics", "weighting"}
STEPS = {"verifier", "rollout", "rollout_statistics"}
# What a component may import of the package. A component that is not named here is held to "no cycles" only.
ALLOWED: dict[str, set[str]] = {
    "structures": set(),
    "parsing": {"structures"},
    "prompts": {"structures", "parsing"},
    "containers": set(),
    "clips": {"structures", "containers"},
    "clip_root": set(),
    "clip_cache": {"clips", "structures"},
    "scoring": {"structures", "parsing"},
    "datamodules": RECORDS | {"clip_cache", "policies", "scoring"},
    "rewards": {"structures", "parsing"},
    "losses": {"structures", "parsing"},
    "metrics": {"structures", "parsing"},
    "weighting": {"structures"},
    "policies": RECORDS | SCORES | {"clip_cache"},
    "sharding": {"policies"},
    "engines": RECORDS | {"policies"},
    "planning": set(),
    "verifier": RECORDS | SCORES | {"policies"},
    "rollout": RECORDS | SCORES | {"policies", "verifier", "engines"},
    "rollout_statistics": {"rollout"},
    "modules": RECORDS | SCORES | STEPS | {"clip_cache", "policies", "datamodules", "engines", "sharding"},
    "callbacks": RECORDS | SCORES | STEPS | {"policies", "scoring", "datamodules", "modules", "sharding"},
    "preparation": RECORDS | SCORES | {"datamodules"},
    "report": {"structures", "clips"},
}
TORCH_PARTS = {"torch", "torchvision", "torchmetrics", "transformers", "lightning", "keybert", "decord", "deepspeed"}


def package_files() -> list[Path]:
    """Every Python file below the package, the linked folders included (a `**` pattern would not enter links)."""
    folders = [PACKAGE, *(PACKAGE / name for name in LINKED)]
    return sorted({path for folder in folders for path in folder.rglob("*.py")})


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Absolute names of all that a file imports, `from a import b` as a.b since b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            ups = node.level - 1 if is_package else node.level
            parents = module.split(".")[: len(module.split(".")) - ups] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return list(imported_modules(tree, module_name(path), path.name == "__init__.py"))


def components(names: list[str]) -> set[str]:
    """The package's direct children among imported names; the package's own attributes are none."""
    inside = {name.split(".")[1] for name in names if name.startswith("cair_lightning.")}
    return {name for name in inside if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}


def component_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for path in package_files():
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        graph.setdefault(own, set()).update(components(imports_of(path)) - {own})
    return graph


@pytest.mark.parametrize(
    ("source", "module", "is_package", "expected"),
    [
        ("import a.b as c, d", "x.y", False, ["a.b", "d"]),
        ("from a import b, c", "x.y", False, ["a.b", "a.c"]),
        ("from . import b", "x.y", False, ["x.b"]),
        ("from .z import b", "x.y", True, ["x.y.z.b"]),
        ("from ..z import b", "x.y.w", False, ["x.z.b"]),
        ("def f():\n    import late", "x", False, ["late"]),
    ],
)
def test_reader_of_imports(source: str, module: str, is_package: bool, expected: list[str]) -> None:
    assert list(imported_modules(ast.parse(source), module, is_package)) == expected


def test_files_of_the_package_are_found() -> None:
    names = {module_name(path) for path in package_files()}
    assert "cair_lightning.structures" in names
    for folder in LINKED:
        link = PACKAGE / folder
        assert link.is_symlink(), f"cair_lightning/{folder} should be a link to ../{folder}"
        assert link.readlink() == Path("..") / folder, "the link must be relative, or a clone elsewhere loses it"
        found = {path.name for path in link.rglob("*.py")}
        assert found == {path.name for path in (ROOT / folder).rglob("*.py")}


def test_imports_go_one_way() -> None:
    graph = component_graph()
    wrong = {own: sorted(uses - ALLOWED[own]) for own, uses in graph.items() if own in ALLOWED}
    assert {own: uses for own, uses in wrong.items() if uses} == {}


def test_no_component_imports_itself_by_a_detour() -> None:
    try:
        list(TopologicalSorter(component_graph()).static_order())
    except CycleError as error:
        pytest.fail(f"components import each other: {' -> '.join(error.args[1])}")


def test_readers_do_not_import_torch_or_the_datamodules() -> None:
    for path in (PACKAGE / "datamodules").rglob("*.py"):
        if "readers" in path.relative_to(PACKAGE).as_posix():
            names = imports_of(path)
            assert {name.split(".")[0] for name in names} & {"torch", "lightning", "transformers"} == set(), path
            above = [n for n in names if n.startswith("cair_lightning.datamodules.") and ".readers" not in n]
            assert above == [], f"{path} is below the datamodules"


def test_report_imports_no_torch_part() -> None:
    for path in (PACKAGE / "report").rglob("*.py"):
        assert {name.split(".")[0] for name in imports_of(path)} & TORCH_PARTS == set(), path


def test_cair_lightning_is_the_only_import_name() -> None:
    paths = [*package_files(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    wrong = [str(path.relative_to(ROOT)) for path in paths if {n.split(".")[0] for n in imports_of(path)} & set(LINKED)]
    assert wrong == [], "import cair_lightning.datamodules, not datamodules: the second name is a second module"
    named = re.compile(r"class_path:\s*['\"]?(datamodules|callbacks)\.")
    assert [path.name for path in (ROOT / "configs").rglob("*.yaml") if named.search(path.read_text("utf-8"))] == []


def test_library_code_does_not_print() -> None:
    def prints(path: Path) -> bool:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        return any(isinstance(call, ast.Name) and call.id == "print" for call in calls)

    speakers = {str(path.relative_to(ROOT)) for path in package_files() if prints(path)}
    assert speakers <= {"cair_lightning/cli.py"}


def test_every_config_opens_with_a_comment() -> None:
    openings = {path: path.read_text("utf-8").lstrip()[:1] for path in (ROOT / "configs").rglob("*.yaml")}
    assert [str(path.relative_to(ROOT)) for path, first in openings.items() if first != "#"] == []


def test_readme_stays_short() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("no README.md yet")
    assert len(readme.read_text("utf-8").splitlines()) < 200
