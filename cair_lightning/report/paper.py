"""The paper's own numbers, as printed: other data and another model than any run here, shown for orientation only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperRow:
    """One row of a table of the paper."""

    name: str
    printed: dict[str, str]
    """What the paper prints, by the metric of ours that comes closest."""


@dataclass(frozen=True, slots=True)
class PaperTable:
    """Rows of one table of the paper and what they were measured on."""

    source: str
    measured_on: str
    rows: tuple[PaperRow, ...]


def _table_2(name: str, printed: str) -> PaperRow:
    keys = (
        *("accuracy_low", "accuracy_high", "accuracy", "faith_f1", "rouge_l"),
        *("information_gain_low", "information_gain_high"),
    )
    return PaperRow(name, dict(zip(keys, printed.split(), strict=True)))


def _table_3(name: str, printed: str) -> PaperRow:
    return PaperRow(name, dict(zip(("accuracy", "faith_f1", "information_gain"), printed.split(), strict=True)))


TABLE_2 = PaperTable(
    source="Table 2",
    measured_on="EmoBench-M (low load: FER, high load: SCEA)",
    rows=(
        _table_2("Emotion-LLaMA", "36.9 54.1 40.6 37.5 31.2 0.05 0.06"),
        _table_2("Naive RL", "46.2 62.5 51.4 40.1 33.8 0.08 0.12"),
        _table_2("R1-Omni", "52.1 66.8 54.9 42.4 35.6 0.10 0.15"),
        _table_2("CAIR", "52.8 68.5 56.4 51.2 41.8 0.12 0.19"),
    ),
)
TABLE_3 = PaperTable(
    source="Table 3",
    measured_on="MTMEUR with Qwen2.5-VL-7B",
    rows=(
        _table_3("SFT Base", "60.2 37.5 0.05"),
        _table_3("+ Acc Reward", "63.8 38.2 0.09"),
        _table_3("+ Format Reward", "65.5 40.1 0.12"),
        _table_3("+ CMR (CAIR)", "73.8 52.7 0.32"),
    ),
)
