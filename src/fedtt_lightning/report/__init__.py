"""Reports on runs: `python -m fedtt_lightning report`, and `Report` for notebooks."""

from fedtt_lightning.report.report import Report

__all__ = ["Report"]
