"""A score over seeds: its mean, its spread, and of how many seeds it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fedtt_lightning.wording import spread


class Score(NamedTuple):
    """A mean over seeds, with the standard deviation of the sample, None if it is of one seed."""

    mean: float
    sd: float | None = None
    seeds: int = 1

    def words(self, most: int = 1) -> str:
        """Write it in decimals as many as others of its size; with (1/3) if it is of 1 of 3."""
        size = abs(self.mean)
        form = ".4g" if size >= 1e5 or 0 < size < 1e-3 else ".4f" if size < 10 else ".2f"
        spread = "" if self.sd is None else f" ± {self.sd:{form}}"
        fewer = f" ({self.seeds}/{most})" if self.seeds < most else ""
        return f"{self.mean:{form}}{spread}{fewer}"


def score_of(values: Sequence[float]) -> Score:
    """Return the score whose values with single seeds these are; NaN if one is NaN."""
    return Score(*spread(values), len(values))


def seeds_note(scores: Iterable[Score], most: int) -> str:
    """Say if some scores are of fewer seeds than the most that there are."""
    fewer = any(score.seeds < most for score in scores)
    return f"Some are of fewer than {most} seeds, as the words at their marks say." if fewer else ""
