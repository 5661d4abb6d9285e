"""What the documents say exists, runs and resolves; the configurations differ where their tables say so, and load."""

from __future__ import annotations

import ast
import doctest
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from cair_lightning.datamodules.manifest import ManifestError, read_dataset

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/paper_map.md",
    "docs/decisions.md",
    "configs/README.md",
)
REFERRING = ("CONTRIBUTING.md", "docs/paper_map.md", "docs/decisions.md")
FOLDERS = ("cair_lightning", "datamodules", "callbacks", "configs", "tests", "docs", "benchmarks")
REFERENCE = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)(?::([\w.]+))?`")
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)(?:#[^)]*)?\)")
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
PAPER_RUNS = [c for c in CONFIGS if not c.startswith(("configs/demo/", "configs/hardware/"))]
GRPO_ROWS = [c for c in CONFIGS if c.startswith("configs/ablations/") and not c.endswith("sft_base.yaml")]


def text(document: str) -> str:
    return (ROOT / document).read_text("utf-8")


def references(document: str) -> list[tuple[str, str | None]]:
    return REFERENCE.findall(text(document))


@cache
def defined(path: str) -> frozenset[str]:
    """Dotted names that a Python file defines: its own, those within its classes, and its functions' arguments."""
    return frozenset(_names(ast.parse(text(path)).body))


def _names(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node.name
            yield from (f"{node.name}.{name}" for name in _names(node.body))
            arguments = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
            yield from (f"{node.name}.{a.arg}" for n in arguments for a in n.args.args)
        elif isinstance(node, ast.FunctionDef):
            yield node.name
            yield from (f"{node.name}.{a.arg}" for a in node.args.args)
        elif isinstance(node, ast.Assign):
            yield from (name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def default(path: str, name: str) -> object:
    """The default of a function's argument, `function.argument` or `Class.argument`; None where there is none."""
    owner, _, argument = name.rpartition(".")
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.ClassDef) and node.name == owner:
            node = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
        elif not (isinstance(node, ast.FunctionDef) and node.name == owner):
            continue
        with_default = node.args.args[len(node.args.args) - len(node.args.defaults) :]
        values = {a.arg: d for a, d in zip(with_default, node.args.defaults, strict=True)}
        if isinstance(value := values.get(argument), ast.Constant):
            return value.value
    return None


def load(config: str) -> dict[str, Any]:
    return yaml.safe_load(text(config))


def at(config: str, key: str) -> object:
    value: Any = load(config)
    for part in key.split("."):
        assert isinstance(value, dict), f"{config}: {key} leads into something that has no keys"
        assert part in value, f"{config} has no {key}"
        value = value[part]
    return value


def missing(path: str, name: str) -> bool:
    """Whether a reference leads nowhere."""
    if not (ROOT / path).exists():
        return True
    if not name:
        return False
    if path.endswith(".yaml"):
        at(path, name)
        return False
    return name not in defined(path)


def test_names_are_found_and_not_found() -> None:
    names = defined("cair_lightning/weighting.py")
    assert {"CognitiveLoadWeighting", "CognitiveLoadWeighting.tau", "CurriculumWeighting.start"} <= names
    assert "CognitiveLoadWeighting.temperature" not in names
    assert missing("cair_lightning/weighting.py", "NoSuchWeighting")
    assert missing("cair_lightning/no_such_file.py", "")
    assert default("cair_lightning/curation.py", "curate.k") == 3000


@pytest.mark.parametrize("document", REFERRING)
def test_every_reference_exists(document: str) -> None:
    found = references(document)
    assert len(found) > 20, "the pattern of references no longer fits the document"
    assert [f"{path}:{name}" for path, name in found if missing(path, name)] == []


def test_every_equation_table_and_figure_has_a_row() -> None:
    rows = text("docs/paper_map.md")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", rows, re.MULTILINE | re.DOTALL))

    def numbers(section: str) -> set[int]:
        cells = re.findall(r"^\| ([(), \d]+) \|", sections[section], re.MULTILINE)
        return {int(n) for cell in cells for n in re.findall(r"\d+", cell)}

    assert numbers("Equations") == set(range(1, 11))
    assert numbers("Algorithm 1") == set(range(1, 17))
    assert numbers("Tables") == set(range(1, 5))
    assert numbers("Figures") == set(range(1, 10))


def hyperparameters() -> list[tuple[str, float, str, str]]:
    """Rows of the map whose paper value is a number and whose first reference is a value: name, number, path, key."""
    rows = text("docs/paper_map.md").split("## Hyperparameters")[1].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]
    numbered = [c for c in cells if re.fullmatch(r"[\d.]+(e-\d+)?", c[1])]
    return [
        (c[0], float(c[1]), *REFERENCE.findall(c[2])[0])
        for c in numbered
        if c[2].startswith("`") and "." in c[2].split(":")[1]
    ]


def test_hyperparameters_are_those_of_the_paper() -> None:
    rows = hyperparameters()
    assert len(rows) >= 14
    values = {n: at(path, key) if path.endswith(".yaml") else default(path, key) for n, _, path, key in rows}
    assert values == {name: number for name, number, _, _ in rows}


def test_global_batches_are_those_of_the_paper() -> None:
    devices = at("configs/hardware/eight_gpus_zero3.yaml", "trainer.devices")
    assert isinstance(devices, int)
    batches = [at(c, "data.init_args.batch_size") for c in ("configs/sft/emoreason.yaml", "configs/grpo/cair.yaml")]
    assert [devices * size for size in batches if isinstance(size, int)] == [32, 24]
    assert 500 * 24 % 3000 == 0


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_resolve(document: str) -> None:
    targets = LINK.findall(text(document))
    assert [t for t in targets if not ((ROOT / document).parent / t).exists()] == []


def test_links_are_found() -> None:
    assert LINK.findall("[a](b.md) [c](d/e.md#f) [g](https://h.i/j)") == ["b.md", "d/e.md"]
    assert "docs/decisions.md" in LINK.findall(text("README.md"))


def test_readme_is_short_and_its_example_runs() -> None:
    readme = text("README.md")
    assert len(readme.splitlines()) < 200
    (example,) = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    case = doctest.DocTestParser().get_doctest(example, {}, "README.md", "README.md", 0)
    assert len(case.examples) > 5
    assert doctest.DocTestRunner().run(case).failed == 0


def test_the_data_set_of_the_readme_is_valid(tmp_path: Path) -> None:
    index, sample = re.findall(r"^```json\n(.*?)^```", text("README.md"), re.MULTILINE | re.DOTALL)
    (tmp_path / "emoreason.json").write_text(index, "utf-8")
    (tmp_path / "train.jsonl").write_text(sample, "utf-8")
    (example,) = read_dataset(tmp_path, "train").examples
    assert example.rationale is not None
    (tmp_path / "train.jsonl").write_text(json.dumps(json.loads(sample) | {"lable": "x"}), "utf-8")
    with pytest.raises(ManifestError, match="unknown key"):
        read_dataset(tmp_path, "train")


@pytest.mark.parametrize("document", ["README.md", *CONFIGS])
def test_files_that_commands_name_exist(document: str) -> None:
    named = re.findall(r"--config[ =](configs/\S+?\.yaml)", text(document))
    assert named or document.startswith(("configs/hardware/", "configs/demo/"))
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("config", PAPER_RUNS)
def test_a_config_says_what_it_is(config: str) -> None:
    header = "".join(line for line in text(config).splitlines(keepends=True) if line.startswith("#"))
    assert "# Hardware: " in header
    assert "# Expected: " in header
    assert f"--config {config}" in header, "the header's command runs another file"


@pytest.mark.parametrize("config", GRPO_ROWS)
def test_a_row_differs_only_where_its_table_does(config: str) -> None:
    row, full = load(config), load("configs/grpo/cair.yaml")
    kept = {"rewards", "weighting"}
    for run in (row, full):
        del run["trainer"]["default_root_dir"]
        run["varied"] = {name: run["model"]["init_args"].pop(name) for name in kept}
    varied, reference = row.pop("varied"), full.pop("varied")
    assert row == full
    if Path(config).stem in ("table3_cair", "table4_clo"):
        assert varied == reference
    else:
        assert varied != reference


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_is_accepted_and_a_misspelt_key_is_not(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    from cair_lightning.training import run

    content = load(config)
    base = [] if "data" in content else ["--config", str(ROOT / "configs/grpo/cair.yaml")]
    command = "test" if content.get("data", {}).get("class_path") == "EmoReasonEvaluationDataModule" else "fit"
    args = [command, *base, "--config", str(ROOT / config)]
    with pytest.raises(SystemExit) as accepted:
        run([*args, "--print_config"])
    assert not accepted.value.code
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["trainer"]["devices"] == content["trainer"].get("devices", "auto")
    with pytest.raises(SystemExit) as refused:
        run([*args, "--model.max_token", "1"])
    assert refused.value.code == 2
    assert "max_token" in capsys.readouterr().err


def test_the_letter_of_the_paper_is_one_command_away(capsys: pytest.CaptureFixture[str]) -> None:
    from cair_lightning.training import run

    config = "configs/grpo/cair.yaml"
    (options,) = re.findall(r"^#   (--model\.weighting.*)$", text(config), re.MULTILINE)
    with pytest.raises(SystemExit) as accepted:
        run(["fit", "--config", str(ROOT / config), *shlex.split(options), "--print_config"])
    assert not accepted.value.code
    settings = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert settings["weighting"]["init_args"] == {"tau": 1.0, "scale": "sum_to_one"}
    assert (settings["rewards"]["clip"], settings["rewards"]["std_floor"]) == (None, 0)
    assert settings["rewards"]["alpha"] == 1.0
