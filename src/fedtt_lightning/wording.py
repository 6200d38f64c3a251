"""How metrics are chosen and numbers are written where people read them; imports nothing."""

from __future__ import annotations

from collections.abc import Iterable


def shown_scores(metrics: Iterable[str]) -> list[str]:
    """Return the validation metrics to show: the losses too, if a task has nothing else."""
    names = [name for name in metrics if name.startswith("val_")]
    return [name for name in names if not name.endswith("_loss")] or names


def human_bytes(count: float) -> str:
    """Write a number of bytes in B, KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"
