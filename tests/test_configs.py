"""Every configuration goes through the real command line, at the least size that its stage can have."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from cair_lightning.cli import main
from cair_lightning.datamodules.manifest import read_dataset, write_dataset
from tests.trees import TREES

CONFIGS = Path(__file__).parents[1] / "configs"
HARDWARE = sorted((CONFIGS / "hardware").glob("*.yaml"))
BENCHMARKS = [CONFIGS / f"evaluation/{name}.yaml" for name in TREES]  # tests/test_benchmarks.py runs them
RUNS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if path not in (*HARDWARE, *BENCHMARKS)]
VISION = "{fps: 2.0, max_frames: 4, min_pixels: 3136, max_pixels: 3136}"
EVALUATION = "{max_new_tokens: 12, temperature: 0.0, controls: true, keyword_model: null}"
SMALL = {
    "--model.vision": VISION, "--model.evaluation": EVALUATION, "--model.loading.dtype": "float32",
    "--data.batch_size": "2", "--data.num_workers": "0", "--trainer.accelerator": "cpu", "--trainer.devices": "1",
    "--trainer.strategy": "auto", "--trainer.precision": "32-true", "--trainer.enable_progress_bar": "false",
}  # fmt: skip
FIT = {"--trainer.max_steps": "1", "--trainer.max_epochs": "-1", "--trainer.log_every_n_steps": "1"}
ROLLOUT = {"--model.sampling.group_size": "2", "--model.sampling.max_new_tokens": "12"}


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def content(path: Path) -> dict:
    return yaml.safe_load(path.read_text("utf-8"))


def command(path: Path) -> str:
    return "test" if content(path)["data"]["class_path"] == "EmoReasonEvaluationDataModule" else "fit"


@pytest.fixture(scope="module")
def curated(world, tmp_path_factory) -> Path:
    """What `cair curate` would write."""
    manifest = read_dataset(world, "train")
    examples = manifest.examples[:4]
    for example in examples:
        example.entropy_bits = 1.0
    folder = tmp_path_factory.mktemp("data") / "curated"
    write_dataset(folder, "curated", manifest.clips.resolve(), {"train": examples})
    return folder


def test_every_kind_of_run_is_there() -> None:
    assert {command(path) for path in RUNS} == {"fit", "test"}
    assert {content(path)["model"]["class_path"] for path in RUNS} == {"SFTModule", "GRPOModule", "PolicyModule"}
    assert HARDWARE


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_configuration_runs(path, taught, world, curated, tmp_path) -> None:
    is_rl = content(path)["model"]["class_path"] == "GRPOModule"
    root = curated if is_rl else world
    options = SMALL | {
        "--model.policy": str(taught),
        "--data.root": str(root),
        "--trainer.default_root_dir": str(tmp_path),
    }
    options |= (FIT if command(path) == "fit" else {}) | (ROLLOUT if is_rl else {})
    torch.manual_seed(0)
    main([command(path), "--config", str(path), *(part for option in options.items() for part in option)])
    assert (tmp_path / "config.yaml").exists()
    if command(path) == "fit":
        assert "train/loss" in (tmp_path / "metrics.csv").read_text()
    elif any(
        "PredictionWriter" in callback["class_path"] for callback in content(path)["trainer"].get("callbacks", [])
    ):
        assert json.loads((tmp_path / "evaluation.json").read_text())["metrics"]["nll_obs"] > 0


@pytest.mark.parametrize("overlay", HARDWARE, ids=name)
@pytest.mark.parametrize("run", ["sft/emoreason.yaml", "grpo/cair.yaml"])
def test_hardware_is_laid_over_a_run(overlay, run, capsys) -> None:
    changed = content(overlay)["model"]["init_args"]
    if "rollout_engine" in changed and run.startswith("sft"):
        pytest.skip("stage 1 has no rollouts")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(CONFIGS / run), "--config", str(overlay), "--print_config"])
    assert stopped.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for key, value in content(overlay)["trainer"].items():
        if key in ("accelerator", "devices", "precision"):
            assert printed["trainer"][key] == value
    assert printed["model"]["init_args"]["loading"].items() >= changed.get("loading", {}).items()
    assert printed["model"]["init_args"]["policy"] == content(CONFIGS / run)["model"]["init_args"]["policy"]
    kept = {callback["class_path"].rpartition(".")[2] for callback in printed["trainer"]["callbacks"]}
    assert "ModelCheckpoint" in kept
