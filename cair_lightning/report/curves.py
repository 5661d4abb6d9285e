"""metrics.csv of Lightning's CSVLogger -> Fit, entropies.jsonl of `cair curate` -> Curation."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import numpy as np

from cair_lightning.report.fields import read_lines, read_text
from cair_lightning.report.records import Curation, Curve, Fit

METRICS, ENTROPIES = "metrics.csv", "entropies.jsonl"
STEP, NLL, REWARD = "step", "train/nll", "train/reward/"
REWARDS = {name: f"train/reward/{name}/mean" for name in ("accuracy", "format", "mediation")}
"""The columns of Fig. 6's right axis."""


def read_fit(path: Path) -> Fit | None:
    """Read the columns that Fig. 6 is made of: a GRPO run has rewards, an SFT run has `train/nll` and none.

    Returns:
        The curves, or None where the file has neither (it belongs to a test, or to another project).

    Raises:
        ValueError: A cell of those columns is no number, or a row has no step.
    """
    reader = csv.DictReader(StringIO(read_text(path), newline=""))
    header = list(reader.fieldnames or [])
    is_grpo = any(name.startswith(REWARD) for name in header)
    if not is_grpo and NLL not in header:
        return None
    wanted = [name for name in header if name in REWARDS.values()] if is_grpo else [NLL]
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    not_finite = 0
    for row in reader:
        for name in wanted:
            value = _cell(path, reader.line_num, row, name)
            step = _cell(path, reader.line_num, row, STEP) if value is not None else None
            if value is None:
                continue
            if step is None:
                raise ValueError(
                    f"{path}, line {reader.line_num}: column {STEP!r} is empty beside {name!r}; expected a step."
                )
            if math.isfinite(value):
                points[name].append((step, value))
            else:
                not_finite += 1
    curves = {name: _curve(found) for name, found in points.items() if found}
    return Fit(path=path, kind="grpo" if is_grpo else "sft", curves=curves, not_finite=not_finite)


def _cell(path: Path, line: int, row: Mapping[str, str | None], name: str) -> float | None:
    """A number, or None where the sparse table has nothing."""
    if name not in row:
        raise ValueError(f"{path}, line {line}: column {name!r} is missing; expected the CSV of Lightning's CSVLogger.")
    text = row[name]
    if not text:
        return None
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: column {name!r} has to be a number, got {text!r}.") from error


def _curve(points: list[tuple[float, float]]) -> Curve:
    table_P2 = np.array(sorted(points, key=lambda point: point[0]), dtype=np.float64)
    return Curve(steps=table_P2[:, 0], values=table_P2[:, 1])


def read_curation(path: Path) -> Curation:
    """Read every sample's entropy and whether it was selected.

    Raises:
        ValueError: A line is not as it should be, an entropy is negative, or there is no line.
    """
    entropies: list[float] = []
    selected: list[bool] = []
    for fields in read_lines(path):
        fields.text("id")
        entropy = fields.number("entropy_bits")
        if entropy < -1e-6:
            raise fields.fault("entropy_bits", "an entropy, which is not negative")
        entropies.append(max(entropy, 0.0))
        selected.append(fields.flag("selected"))
    if not entropies:
        raise ValueError(f"{path}: expected at least one sample, got an empty file; run `cair curate` again.")
    return Curation(path=path, entropies_bits=np.array(entropies), selected=np.array(selected))
