"""What tables say of the runs of one cell with several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def accuracy(record: dict[str, Any]) -> float:
    """Return the accuracy after the last round of a finished run."""
    return float(record["summary"]["metrics"]["val_acc"])


def summarize(done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return accuracies, their mean and standard deviation, and what a visit sends."""
    scores = [accuracy(record) for record in done]
    one = done[0]["summary"]
    return {
        "seeds": len(scores),
        "accuracy": scores,
        "mean": statistics.mean(scores),
        "deviation": statistics.stdev(scores) if len(scores) > 1 else None,
        "trained_parameters": one["trainable_parameters"],
        "upload_bytes": one["upload_bytes_per_client"],
        "head_bytes": 4 * done[0]["head_parameters"],
        "upload_bytes_total": one["upload_bytes_total"],
    }


def shown(row: dict[str, Any] | None, seeds: int) -> str:
    """Return `mean ± deviation`, and in brackets how many seeds where fewer than `seeds` ran."""
    if row is None:
        return "–"
    spread = "" if row["deviation"] is None else f" ± {row['deviation']:.3f}"
    few = f" ({row['seeds']})" if row["seeds"] < seeds else ""
    return f"{row['mean']:.3f}{spread}{few}".replace("0.", ".")


def sent(row: dict[str, Any]) -> str:
    """Return two cells of a table: what a visit sends, and that without the head."""
    up, adapter = row["upload_bytes"], row["upload_bytes"] - row["head_bytes"]
    return f"{up / 1024:.1f} KiB | {adapter / 1024:.1f} KiB"
