"""Other projects use the metrics without the rest of this one, and without its dependencies."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
USE = """
import sys

import torch
import torchmetrics

before = set(sys.modules)
from cair_lightning.metrics import *

added = {name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
print(sorted(added))
loaded = {name.split(".")[0] for name in sys.modules}
heavy = {"lightning", "keybert", "sentence_transformers", "decord", "sklearn", "rouge_score", "HanTa"}
print(sorted(loaded & heavy))
print(sorted(name for name in sys.modules if name.startswith("cair_lightning.") and ".metrics" not in name))
"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import cair_lightning.metrics"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in run.stderr.splitlines()}
    assert "cair_lightning" in loaded
    assert not loaded & {"transformers", "lightning", "pytorch_lightning", "keybert", "decord", "deepspeed", "torch"}


def test_using_the_metrics_loads_torch_and_torchmetrics_only() -> None:
    # transformers is loaded by torchmetrics itself where it is installed, so what counts is what comes on top.
    run = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.splitlines() == ["['cair_lightning']", "[]", "[]"]
