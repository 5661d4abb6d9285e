"""Other projects use the metrics without the rest of this one, and without its dependencies."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys

import torch
import torchmetrics

before = set(sys.modules)
import cair_lightning.metrics

added = {name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
print(sorted(added))
loaded = {name.split(".")[0] for name in sys.modules}
heavy = {"lightning", "keybert", "sentence_transformers", "decord", "sklearn", "rouge_score", "HanTa"}
print(sorted(loaded & heavy))
print(sorted(name for name in sys.modules if name.startswith("cair_lightning.") and ".metrics" not in name))
"""


def test_importing_the_metrics_imports_torch_and_torchmetrics_only() -> None:
    # transformers is loaded by torchmetrics itself where it is installed, so what counts is what comes on top.
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.splitlines() == ["['cair_lightning']", "[]", "[]"]
