"""Rows drawn out of a set: to hold out, or to evaluate on fewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def draw_rows(
    size: int, wanted: int, generator: np.random.Generator, groups: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return `wanted` of `size` rows and the others, both as indices in the order of the draw.

    Rows of one group are drawn together or not at all, so that fewer than `wanted` may come, but
    at least one group does.
    """
    order = generator.permutation(size)
    if groups is None or not wanted:
        return order[:wanted], order[wanted:]
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    drawn_at = np.full(codes.max() + 1, size)
    np.minimum.at(drawn_at, codes[order], np.arange(size))
    order = order[np.argsort(drawn_at[codes[order]], kind="stable")]
    ends = np.flatnonzero(np.diff(codes[order], append=-1)) + 1
    cut = max(ends[ends <= wanted], default=ends[0])
    return order[:cut], order[cut:]


def take(rows: Any, indices: np.ndarray) -> Any:
    """Return rows of a `datasets.Dataset`, or of a list, in their own order."""
    chosen = np.sort(indices)
    return rows.select(chosen) if hasattr(rows, "select") else [rows[index] for index in chosen]
