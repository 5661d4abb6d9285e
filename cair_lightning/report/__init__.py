"""Run folders -> one self-contained HTML page in the manner of the paper's tables and figures. Imports no torch."""

from cair_lightning.report.page import build_report

__all__ = ["build_report"]
