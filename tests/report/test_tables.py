"""Numbers are printed in their unit, and the paper's are those of its text."""

import pytest

from cair_lightning.report.paper import TABLE_2, TABLE_3
from cair_lightning.report.records import Evaluation
from cair_lightning.report.runs import read_runs
from cair_lightning.report.tables import DASH, Cell, ablation_table, emotion_table, number_text, results_table


def evaluations_of(fake, *metrics) -> list[Evaluation]:
    folders = [fake.evaluation(f"run{i}", [fake.sample()], metrics=given) for i, given in enumerate(metrics)]
    return [evaluation for run in read_runs(folders) for evaluation in run.evaluations]


def column(table, metric) -> list[Cell]:
    place = [c.metric for c in table.columns].index(metric)
    return [row.cells[place] for row in (*table.rows, *table.paper_rows)]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.738, "%", "73.8"), (1.0, "%", "100.0"), (0.19, "bits", "0.190"), (-0.25, "nats", "\N{MINUS SIGN}0.250"),
     (3.8, "points", "3.80"), (None, "%", DASH), (float("nan"), "bits", DASH), (float("inf"), "nats", "∞")],
)  # fmt: skip
def test_numbers_are_printed_in_their_unit(value, unit, text) -> None:
    assert number_text(value, unit) == text


def test_rows_keep_their_order_and_missing_metrics_are_dashes(fake) -> None:
    table = results_table(evaluations_of(fake, {"accuracy": 0.5, "information_gain_high": 0.2}, {"accuracy": 0.25}))
    assert [row.label for row in table.rows] == ["run0", "run1"]
    assert [row.series for row in table.rows] == [0, 1]
    assert [cell.text for cell in column(table, "accuracy")][:2] == ["50.0", "25.0"]
    assert [cell.text for cell in column(table, "information_gain_high")] == [
        "0.200",
        DASH,
        "0.06",
        "0.12",
        "0.15",
        "0.19",
    ]
    assert {cell.text for cell in column(table, "nll_int")} == {DASH}


def test_best_is_marked_by_direction_among_runs_only(fake) -> None:
    table = results_table(
        evaluations_of(
            fake,
            {"accuracy": 0.5, "nll_int": 1.0, "iqr": 2.0, "information_gain_other": 0.0},
            {"accuracy": 0.6, "nll_int": 0.5, "iqr": 2.0, "information_gain_other": -1.0},
            {"accuracy": 0.6},
        )
    )
    assert [cell.best for cell in column(table, "accuracy")] == [False, True, True, False, False, False, False]
    assert [cell.best for cell in column(table, "nll_int")][:3] == [False, True, False]
    assert not any(cell.best for cell in column(table, "information_gain_other")), "a control has no best"
    alone = results_table(evaluations_of(fake, {"accuracy": 0.5}))
    assert not any(cell.best for row in alone.rows for cell in row.cells)


def test_groups_begin_where_they_are_said_to(fake) -> None:
    table = results_table(evaluations_of(fake, {}))
    assert table.starts[:3] == (0, 3, 5)
    assert len(table.starts) == len(table.groups)
    assert all(len(row.cells) == len(table.columns) for row in (*table.rows, *table.paper_rows))


def test_emotions_are_columns_with_counts(fake) -> None:
    folders = [
        fake.evaluation("a", [fake.sample()], metrics={"accuracy/angry": 1.0}),
        fake.evaluation("b", [fake.sample(), fake.sample(id="2")], metrics={"accuracy/sad": 0.5}),
    ]
    table = emotion_table([evaluation for run in read_runs(folders) for evaluation in run.evaluations])
    assert table is not None
    assert [(c.label, c.note) for c in table.columns] == [("angry", "n = 1\N{EN DASH}2"), ("sad", "n = 0")]
    assert [[cell.text for cell in row.cells] for row in table.rows] == [["100.0", DASH], [DASH, "50.0"]]
    assert emotion_table(evaluations_of(fake, {"accuracy": 0.5})) is None


def test_paper_numbers_are_those_it_prints(fake) -> None:
    rows = {row.name: row.printed for row in TABLE_2.rows}
    assert list(rows) == ["Emotion-LLaMA", "Naive RL", "R1-Omni", "CAIR"]
    assert list(rows["CAIR"].values()) == ["52.8", "68.5", "56.4", "51.2", "41.8", "0.12", "0.19"]
    assert rows["Naive RL"]["accuracy_high"] == "62.5"
    assert rows["Emotion-LLaMA"]["accuracy"] == "40.6"
    assert rows["R1-Omni"]["rouge_l"] == "35.6"
    assert [row.printed["information_gain"] for row in TABLE_3.rows] == ["0.05", "0.09", "0.12", "0.32"]
    # A name that no column has would silently not be shown.
    results, ablation = results_table(evaluations_of(fake, {})), ablation_table(evaluations_of(fake, {}))
    for source, table in ((TABLE_2, results), (TABLE_3, ablation)):
        shown = [[cell.text for cell in row.cells if cell.text != DASH] for row in table.paper_rows]
        assert shown == [list(row.printed.values()) for row in source.rows]
