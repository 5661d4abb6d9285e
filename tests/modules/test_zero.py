"""Two processes under DeepSpeed ZeRO and FSDP2 against one process with the same global batch."""

import csv
import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cair_lightning.datamodules.manifest import read_dataset, write_dataset
from cair_lightning.export import export
from cair_lightning.policies.qwen import QwenVLPolicy

pytest.importorskip("deepspeed")

SCRIPT = Path(__file__).with_name("zero_ranks.py")
ROOT = Path(__file__).parents[2]
WEIGHTS = "model.safetensors"
STRATEGIES = ["zero2", "zero3", "prefetch"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broken(world, tmp_path_factory) -> Path:
    """Eight prompts for stage 2, the clip of one of which cannot be read."""
    manifest = read_dataset(world, "train")
    folder = tmp_path_factory.mktemp("data") / "broken"
    clips = folder / "clips"
    clips.mkdir(parents=True)
    examples = [replace(example, entropy_bits=2.0) for example in manifest.examples[:8]]
    for number, example in enumerate(examples):
        source = (manifest.clips / example.clip).read_bytes()
        (clips / f"{number}.mp4").write_bytes(source[:200] if number == 3 else source)
    moved = [replace(example, clip=f"{number}.mp4") for number, example in enumerate(examples)]
    write_dataset(folder, "broken", Path("clips"), {"train": moved})
    return folder


@pytest.fixture(scope="module")
def runs(tiny, taught, world, broken, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of the same runs with one process (this one) and with two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    paths = [str(path) for path in (tiny, taught, world, broken)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, str(SCRIPT), *paths, str(two)]
    log = two / "log"
    with log.open("w") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as job:
        try:
            runpy.run_path(str(SCRIPT))["everything"](*map(Path, paths), one, ranks=1)
            job.wait(timeout=600)
        finally:
            job.kill()
    assert job.returncode == 0, log.read_text()[-4000:]
    return one, two


def outcomes(folder: Path) -> list[dict]:
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("outcome.*"))]


def column(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def assert_same_run(one: Path, two: Path) -> None:
    """Losses to 1e-5 and weights to 1e-4, on both ranks."""
    (expected,), got = outcomes(one), outcomes(two)
    assert column(two, "train/loss") == pytest.approx(column(one, "train/loss"), abs=1e-5)
    assert len(column(one, "train/loss")) == 4
    assert len(got) == 2
    for rank in got:
        for name, weight in expected["weights"].items():
            torch.testing.assert_close(rank["weights"][name], weight, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "fsdp"])
def test_sft_of_two_ranks_is_that_of_one(runs, strategy) -> None:
    assert_same_run(runs[0] / "sft-one", runs[1] / f"sft-{strategy}")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_grpo_of_two_ranks_is_that_of_one(runs, strategy) -> None:
    one, two = runs[0] / "grpo-one", runs[1] / f"grpo-{strategy}"
    assert_same_run(one, two)
    (expected,), got = outcomes(one), outcomes(two)
    for n, step in enumerate(expected["steps"]):
        for key in ("ids", "texts"):
            assert got[0]["steps"][n][key] + got[1]["steps"][n][key] == step[key]
        for key in ("lambda", "rewards"):
            joined = got[0]["steps"][n][key] + got[1]["steps"][n][key]
            assert joined == pytest.approx(step[key], abs=1e-4)
        assert got[0]["steps"][n]["kl"] == pytest.approx(step["kl"], abs=1e-5)
        assert got[0]["steps"][n]["eta"] == pytest.approx(step["eta"], abs=1e-6)


def test_ranks_differed_in_all_that_makes_them_wait_for_each_other(runs) -> None:
    """Lengths of completions, a clip that fails on one rank, a group without a well-formed completion on another."""
    ranks = outcomes(runs[1] / "grpo-prefetch")
    steps = list(zip(*(rank["steps"] for rank in ranks), strict=True))
    longest = [[max(map(len, rank["texts"])) for rank in step] for step in steps]
    assert any(a != b for a, b in longest)
    assert any(sum(all(rank["valid"]) for rank in step) == 1 for step in steps)
    malformed = [[any(not any(rank["formed"][g : g + 2]) for g in (0, 2)) for rank in step] for step in steps]
    assert any(sum(step) == 1 for step in malformed)


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_parts_of_a_step_add_up(runs, stage) -> None:
    """DeepSpeed accumulates gradients itself and divides once more; the clip of the gradient would notice."""
    assert_same_run(runs[0] / f"{stage}-parts", runs[1] / f"{stage}-parts")


def test_weights_that_stay_sharded_while_sampling_sample_the_same(runs) -> None:
    gathered, sharded = outcomes(runs[1] / "grpo-prefetch"), outcomes(runs[1] / "grpo-sharded")
    for a, b in zip(gathered, sharded, strict=True):
        assert [step["texts"] for step in a["steps"]] == [step["texts"] for step in b["steps"]]
        for name, weight in a["weights"].items():
            torch.testing.assert_close(b["weights"][name], weight, atol=1e-5, rtol=0, msg=name)


def test_weights_are_bfloat16_and_masters_float32(runs, tmp_path) -> None:
    folder = runs[1] / "sft-bfloat16"
    assert column(folder, "train/loss") == pytest.approx(column(runs[0] / "sft-one", "train/loss"), rel=0.02)
    assert {w.dtype for w in outcomes(folder)[0]["weights"].values()} == {torch.bfloat16}
    masters = load_file(export(folder / "checkpoints" / "last.ckpt", tmp_path / "policy", trust=True) / WEIGHTS)
    for name, weight in load_file(folder / "policy" / WEIGHTS).items():
        assert masters[name].dtype == torch.float32
        assert torch.equal(masters[name].bfloat16(), weight), name


def test_an_evaluation_of_two_ranks_is_that_of_one(runs) -> None:
    one, two = (folder / "test" for folder in runs)
    written = [[json.loads(line) for line in (f / "predictions.jsonl").read_text().splitlines()] for f in (one, two)]
    assert [row["completion"] for row in written[1]] == [row["completion"] for row in written[0]]
    metrics = [json.loads((folder / "evaluation.json").read_text())["metrics"] for folder in (one, two)]
    same = metrics[0].keys() - {"information_gain_other"}  # other batches have other neighbours
    assert {k: metrics[1][k] for k in same} == pytest.approx({k: metrics[0][k] for k in same}, abs=1e-5)


@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_run_is_the_uninterrupted_one(runs, step) -> None:
    whole, resumed = outcomes(runs[1] / "grpo-parts"), outcomes(runs[1] / f"grpo-resumed-{step}")
    for rank in (0, 1):
        left = [s for s in whole[rank]["steps"] if s["step"] > step]
        again = [s for s in resumed[rank]["steps"] if s["step"] > step]
        assert [s | {"loss": 0} for s in again] == [s | {"loss": 0} for s in left]
        for name, weight in whole[rank]["weights"].items():
            assert torch.equal(weight, resumed[rank]["weights"][name]), name
    curve = column(runs[1] / "grpo-parts", "train/loss")
    assert column(runs[1] / f"grpo-resumed-{step}", "train/loss") == curve[step:]


@pytest.mark.parametrize("strategy", [*STRATEGIES, "fsdp"])
def test_a_sharded_checkpoint_is_exported_bit_by_bit(runs, tiny, strategy, tmp_path) -> None:
    folder = runs[1] / f"sft-{strategy}"
    checkpoint = folder / "checkpoints" / "last.ckpt"
    assert checkpoint.is_dir()
    with pytest.raises(ValueError, match="is a folder of shards, and reading them runs any code"):
        export(checkpoint, tmp_path / "refused")
    exported = QwenVLPolicy.load(export(checkpoint, tmp_path / "policy", trust=True)).model.state_dict()
    written = QwenVLPolicy.load(folder / "policy").model.state_dict()  # by ExportPolicy, from the ranks' memory
    published = load_file(tiny / WEIGHTS).keys()
    assert load_file(tmp_path / "policy" / WEIGHTS).keys() == load_file(folder / "policy" / WEIGHTS).keys() == published
    for name, weight in outcomes(folder)[0]["weights"].items():
        assert torch.equal(exported[name], weight), name
        assert torch.equal(written[name], weight), name
