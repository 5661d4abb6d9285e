"""`cair demo` at the least size: every stage runs, finished ones are skipped, interrupted ones go on."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from cair_lightning import demo
from cair_lightning.world import build

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[1] / "configs" / "demo"
STEPS = {"warmup": 2, "sft": 4, "cair": 2, "naive_rl": 2}


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch) -> None:
    """The demo's own configurations with fewer steps, and a smaller world."""
    for path in CONFIGS.glob("*.yaml"):
        config = yaml.safe_load(path.read_text("utf-8"))
        config["data"]["init_args"]["batch_size"] = 4
        config["trainer"]["enable_progress_bar"] = False
        if path.stem in STEPS:
            config["trainer"]["max_steps"] = STEPS[path.stem]
            config["trainer"]["log_every_n_steps"] = 1
            config["trainer"]["callbacks"][-1]["init_args"]["every_n_train_steps"] = 2
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / path.name).write_text(yaml.safe_dump(config), "utf-8")
    monkeypatch.setattr(demo, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(demo, "CURATED", 6)
    monkeypatch.setattr(build, "SIZES", {"warmup": 8, "train": 12, "val": 4, "test": 6})


def steps(folder: Path) -> list[int]:
    with (folder / "metrics.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def times(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_the_whole_method_runs_once_and_only_once(tmp_path) -> None:
    out = tmp_path / "demo"
    message = demo.demo(out, strategies=("cair", "naive_rl"))
    assert str(out / "report.html") in message
    for name in ("warmup", "sft", "cair", "naive_rl"):
        assert steps(out / name) == list(range(STEPS[name]))
        assert (out / name / "policy" / "model.safetensors").exists()
    for name, title in (("sft", "SFT"), ("cair", "CAIR"), ("naive_rl", "Naive RL")):
        summary = json.loads((out / "evaluation" / name / "evaluation.json").read_text())
        assert summary["name"] == title
    assert len((out / "curated" / "train.jsonl").read_text().splitlines()) == 6
    page = (out / "report.html").read_text("utf-8")
    assert all(title in page for title in ("SFT", "CAIR", "Naive RL"))
    before = times(out)
    demo.demo(out, strategies=("cair", "naive_rl"))
    after = times(out)
    assert {name for name in after if before.get(name) != after[name]} == {"report.html"}


def test_an_interrupted_stage_goes_on(tmp_path, world, tiny) -> None:
    folder = tmp_path / "sft"
    demo.train("sft", tiny, world, folder, 0, "--trainer.max_steps", "3")
    assert steps(folder) == [0, 1, 2]
    shutil.rmtree(
        folder / "policy"
    )  # as if it had been stopped in its third step: the last checkpoint is of the second
    demo.train("sft", tiny, world, folder, 0)
    assert steps(folder) == [0, 1, 2, 2, 3]
    demo.train("sft", tiny, world, folder, 0)
    assert steps(folder) == [0, 1, 2, 2, 3]
