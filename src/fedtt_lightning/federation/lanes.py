"""Which lane trains which of a round's visits: pure arithmetic on what visits cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedtt_lightning.federation.plan import Visit


def lanes_of(costs: Sequence[float], lanes: int) -> list[int]:
    """Return the lane (from 0) of each visit: the longest first, each to where least is to do.

    Ties go to the earlier visit and the lower lane, so lane 0 is idle only if there is no visit.
    The longest lane takes at most 4/3 of what is best (Graham 1969, doi:10.1137/0117039).
    """
    load = [0.0] * lanes
    found = [0] * len(costs)
    for visit in sorted(range(len(costs)), key=lambda visit: (-costs[visit], visit)):
        lane = min(range(lanes), key=lambda lane: load[lane])
        found[visit] = lane
        load[lane] += costs[visit]
    return found


def visit_costs(visits: Sequence[Visit], pace: Mapping[int, float]) -> list[float]:
    """Return what each visit costs, in seconds if the pace of any client is known.

    Args:
        pace: seconds a batch of the clients that were measured; others are taken for their mean.
    """
    mean = sum(pace.values()) / len(pace) if pace else 1.0
    return [visit.num_batches * pace.get(visit.client, mean) for visit in visits]
