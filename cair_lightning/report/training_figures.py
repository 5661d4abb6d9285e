"""Fits and curations -> Fig. 6 (both phases of training) and Fig. 7 (which samples were curated)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cair_lightning.report.curves import NLL, REWARDS
from cair_lightning.report.drawing import INK, canvas, colour, dashes, dress, svg_text
from cair_lightning.report.plots import LegendEntry, Plot
from cair_lightning.report.records import Curation, Curve, Fit, Run
from cair_lightning.report.statistics import density, smoothed

LINES = {
    NLL: (0, "SFT: negative log-likelihood (left axis)"),
    REWARDS["format"]: (2, "GRPO: format reward (right axis)"),
    REWARDS["accuracy"]: (3, "GRPO: accuracy reward (right axis)"),
    REWARDS["mediation"]: (1, "GRPO: causal mediation reward (right axis)"),
}
"""Colour and name of each column."""


def training_plots(runs: Sequence[Run]) -> list[Plot]:
    """Fig. 6, once for each GRPO run; before it the SFT run of the same folder, or else the first one given."""
    fits = [(run, fit) for run in runs for fit in run.fits if fit.curves]
    sft = [(run, fit) for run, fit in fits if fit.kind == "sft"]
    grpo = [(run, fit) for run, fit in fits if fit.kind == "grpo"]
    if not fits:
        missing = (
            "the metrics.csv of a fit run, with `train/nll` (SFT) or `train/reward/…/mean` (GRPO), would bring it."
        )
        return [Plot(key="fig6", number="Figure 6", title="Optimisation dynamics", missing=missing)]
    pairs: list[tuple[Fit | None, Fit | None]] = [
        (next((fit for other, fit in sft if other is run), sft[0][1] if sft else None), fit) for run, fit in grpo
    ]
    folders = [run.folder for run in runs]
    return [_training_plot(f"fig6-{i}", *pair, folders) for i, pair in enumerate(pairs or [(sft[0][1], None)])]


def _training_plot(key: str, sft: Fit | None, grpo: Fit | None, folders: Sequence[Path]) -> Plot:
    phases = [fit for fit in (sft, grpo) if fit is not None]
    with canvas(10.5, 3.9) as figure:
        for axes, fit in zip(_phase_axes(figure, phases), phases, strict=True):
            _draw_phase(axes, fit)
        described = [
            f"{LINES[name][1]}: from {curve.values[0]:.3g} to {curve.values[-1]:.3g}" for name, curve in _lines(phases)
        ]
        svg = svg_text(figure, key, "Optimisation dynamics", f"Curves over training steps. {'; '.join(described)}.")
    legend = tuple(LegendEntry(LINES[name][1], LINES[name][0], "━") for name, _ in _lines(phases))
    names = " and then ".join(shown_path(fit.path, folders) for fit in phases)
    caption = f"From {names}. Faint: as logged; bold: moving average over a twentieth of the points."
    if len(phases) == 1:
        absent = "GRPO run (`train/reward/…/mean`)" if grpo is None else "SFT run (`train/nll`)"
        caption += f" The other phase is missing: the metrics.csv of the {absent} would bring it."
    if lost := sum(fit.not_finite for fit in phases):
        caption += f" {lost} logged values were nan or infinite and are not drawn."
    return Plot(
        key=key, number="Figure 6", title="Optimisation dynamics", svg=svg, legend=legend, caption=caption, wide=True
    )


def _lines(phases: Sequence[Fit]) -> list[tuple[str, Curve]]:
    return [(name, fit.curves[name]) for fit in phases for name in LINES if name in fit.curves]


def shown_path(path: Path, folders: Sequence[Path]) -> str:
    """A file as the page names it: from the run's folder on, without what lies above."""
    for folder in folders:
        if path.is_relative_to(folder):
            return (Path(folder.resolve().name) / path.relative_to(folder)).as_posix()
    return path.name


def _phase_axes(figure: Figure, phases: Sequence[Fit]) -> list[Axes]:
    """One panel for each phase; two touch each other at the transition, and each is at least a third of the whole."""
    steps = [max(curve.steps[-1] for curve in fit.curves.values()) + 1 for fit in phases]
    ratios = [min(max(count / sum(steps), 1 / 3), 2 / 3) if len(phases) == 2 else 1.0 for count in steps]
    grid = figure.add_gridspec(1, len(phases), width_ratios=ratios)
    figure.set_layout_engine("constrained", w_pad=0.02, wspace=0.0)
    return [figure.add_subplot(grid[0, place]) for place in range(len(phases))]


def _draw_phase(axes: Axes, fit: Fit) -> None:
    is_sft = fit.kind == "sft"
    dress(axes, "SFT step" if is_sft else "GRPO step", "NLL [nats]" if is_sft else "mean reward")
    for name, curve in fit.curves.items():
        series = LINES[name][0]
        axes.plot(curve.steps, curve.values, color=colour(series), alpha=0.25, linewidth=1)
        axes.plot(curve.steps, smoothed(curve.values), color=colour(series), linewidth=2)
    axes.margins(x=0)
    if not is_sft:
        axes.yaxis.set_label_position("right")
        axes.yaxis.tick_right()
        axes.spines["right"].set_visible(True)
        axes.spines["left"].set(color=INK, linestyle="--", linewidth=1.2)
        axes.annotate("SFT → GRPO", (0, 1), (4, -2), "axes fraction", "offset points", color=INK, va="top", fontsize=9)


def curation_plots(runs: Sequence[Run]) -> list[Plot]:
    """Fig. 7, once for each curation: the density of H(Y|X) with the selected region shaded."""
    found = [curation for run in runs for curation in run.curations]
    if not found:
        missing = "the entropies.jsonl that `cair curate` writes would bring it."
        return [Plot(key="fig7", number="Figure 7", title="Entropy of the SFT samples", missing=missing)]
    folders = [run.folder for run in runs]
    return [_curation_plot(f"fig7-{i}", curation, folders) for i, curation in enumerate(found)]


def _curation_plot(key: str, curation: Curation, folders: Sequence[Path]) -> Plot:
    values, chosen = curation.entropies_bits, curation.selected
    high = float(values.max()) or 1.0
    grid = np.linspace(0, high, 301)
    height = density(values, grid, 0, high)
    threshold = float(values[chosen].min()) if chosen.any() else None
    count = f"{int(chosen.sum())} of {len(values)} samples selected"
    with canvas() as figure:
        axes = figure.add_subplot()
        dress(axes, "H(Y|X) [bits]", "density")
        axes.fill_between(grid, height, color=colour(0), alpha=0.2, linewidth=0)
        axes.plot(grid, height, color=colour(0), linewidth=2)
        if threshold is not None:
            inside = np.union1d(grid[grid >= threshold], [threshold])
            axes.fill_between(inside, np.interp(inside, grid, height), color=colour(1), alpha=0.45, linewidth=0)
            axes.axvline(threshold, color=colour(1), linestyle=dashes(1), linewidth=1.5)
        axes.set_xlim(0, high)
        axes.set_ylim(bottom=0)
        at = "" if threshold is None else f", from {threshold:.2f} bits on"
        svg = svg_text(
            figure, key, "Density of H(Y|X) over the SFT samples", f"{count}{at}, of at most {high:.2f} bits."
        )
    legend = (LegendEntry("all samples", 0, "■"), LegendEntry(f"{count}{at}", 1, "■"))
    caption = f"From {shown_path(curation.path, folders)}."
    above = 0 if threshold is None else int(np.count_nonzero(~chosen & (values >= threshold)))
    if above:
        caption += f" {above} samples within the shaded region were not selected."
    return Plot(key=key, number="Figure 7", title="Entropy of the SFT samples", svg=svg, legend=legend, caption=caption)
