"""Two processes on gloo against one with the same global batch."""

import csv
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tiny, taught, world, curated, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of the same runs with one process (this one) and with two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    paths = [str(path) for path in (tiny, taught, world, curated)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, str(SCRIPT), *paths, str(two)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        try:
            runpy.run_path(str(SCRIPT))["everything"](*map(Path, paths), one, ranks=1)
            printed, _ = job.communicate(timeout=300)
        finally:
            job.kill()
    assert job.returncode == 0, printed[-3000:]
    return one, two


def outcomes(folder: Path) -> list[dict]:
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("outcome.*"))]


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_sft_of_two_ranks_is_that_of_one(runs) -> None:
    (one,), two = (outcomes(folder / "sft") for folder in runs)
    assert len(two) == 2
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two[0]["weights"][name], weight, atol=1e-5, rtol=0, msg=name)
        assert torch.equal(two[0]["weights"][name], two[1]["weights"][name]), name
    curves = [losses(folder / "sft") for folder in runs]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    assert len(curves[0]) == 4


def test_grpo_of_two_ranks_is_that_of_one(runs) -> None:
    (one,), two = (outcomes(folder / "grpo") for folder in runs)
    curves = [losses(folder / "grpo") for folder in runs]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    assert len(curves[0]) == 4
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two[0]["weights"][name], weight, atol=1e-4, rtol=0, msg=name)
    first = [rank["steps"][0] for rank in two]
    assert one["steps"][0]["ids"] == first[0]["ids"] + first[1]["ids"]
    lambdas = first[0]["lambda"] + first[1]["lambda"]
    assert lambdas == pytest.approx(one["steps"][0]["lambda"], abs=1e-6)
    assert sum(lambdas) == pytest.approx(1.0)
    assert max(lambdas) > 1.05 * min(lambdas)
    for steps in zip(*(rank["steps"] for rank in two), strict=True):
        assert sum(step["weight"] for step in steps) == pytest.approx(1.0)
        assert steps[0]["kl"] == steps[1]["kl"]
        assert steps[0]["eta"] == steps[1]["eta"]
    for name, weight in two[0]["weights"].items():
        assert torch.equal(weight, two[1]["weights"][name]), name


def test_two_ranks_resume_in_the_middle_of_a_rollout(runs) -> None:
    whole, resumed = outcomes(runs[1] / "grpo"), outcomes(runs[1] / "resumed")
    for rank in (0, 1):
        assert resumed[rank]["steps"] == whole[rank]["steps"][3:]
        assert len(resumed[rank]["steps"]) == 1
        for name, weight in whole[rank]["weights"].items():
            assert torch.equal(weight, resumed[rank]["weights"][name]), name


def test_one_of_two_ranks_writes(runs) -> None:
    folder = runs[1] / "grpo"
    rollouts = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rollouts] == [0, 0, 2, 2]
    assert (folder / "policy" / "model.safetensors").exists()


def test_two_ranks_predict_in_the_order_of_the_data(runs, world) -> None:
    predictions = [(folder / "test" / "predictions.jsonl").read_text().splitlines() for folder in runs]
    names = [json.loads(line)["id"] for line in (world / "test.jsonl").read_text().splitlines()]
    assert [[json.loads(line)["id"] for line in lines] for lines in predictions] == [names, names]
    metrics = [json.loads((folder / "test" / "evaluation.json").read_text())["metrics"] for folder in runs]
    same = metrics[0].keys() - {"information_gain_other"}  # other batches have other neighbours
    assert {k: metrics[1][k] for k in same} == pytest.approx({k: metrics[0][k] for k in same}, abs=1e-5)


def test_a_rollout_of_two_ranks_is_not_resumed_by_one(runs, taught, curated, tmp_path) -> None:
    script = runpy.run_path(str(SCRIPT))
    checkpoint = runs[1] / "grpo" / "checkpoints" / "step=3.ckpt"
    with pytest.raises(ValueError, match="stopped within a rollout of 2 ranks, and this one has 1"):
        script["train_grpo"](taught, curated, tmp_path, 1, checkpoint)
