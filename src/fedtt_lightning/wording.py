"""How metrics are chosen, summed up and written where people read them; imports nothing of ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite, sqrt
from typing import Any


def shown_scores(metrics: Iterable[str]) -> list[str]:
    """Return the validation metrics to show: the losses too, if a task has nothing else."""
    names = [name for name in metrics if name.startswith("val_")]
    return [name for name in names if not name.endswith("_loss")] or names


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation of the sample, None for one value; NaN if one is NaN.

    An infinite value gives an infinite mean, or NaN where there is one of each sign, and NaN as
    deviation.
    """
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    # A product overflows to infinity, where a power and `statistics.stdev` raise.
    squares = [(value - mean) * (value - mean) for value in values]
    return mean, sqrt(sum(squares) / (len(values) - 1))


def human_bytes(count: float) -> str:
    """Write a number of bytes in B, KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def without_nan(value: Any) -> Any:
    """Return numbers as JSON can hold them: None in place of what is not finite."""
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not isfinite(value) else value
