"""Orders in which a local epoch goes through a client's examples, batch after batch."""

from __future__ import annotations

import numpy as np

_POOL = 32  # batches


def group_by_length(
    order: np.ndarray, lengths: np.ndarray, size: int, generator: np.random.Generator
) -> np.ndarray:
    """Return a shuffled order rearranged, so that texts of like length share batches of `size`.

    The order is cut into pools of 32 batches, each pool is sorted by length and cut into batches,
    and the batches of all pools are shuffled. The examples of a last batch that is not full are
    those of the given order, and stay last: which examples they are does not hang on lengths.
    No pool is padded more than before, since sorting makes the sum of its batches' longest least.

    Args:
        order: indices of the client's examples, in the order of a uniform shuffle.
        lengths: length of each example of the data set that the indices point into.
    """
    full = len(order) // size * size
    if not full:
        return order
    pools = np.split(order[:full], range(_POOL * size, full, _POOL * size))
    by_length = [pool[np.argsort(lengths[pool], kind="stable")] for pool in pools]
    batches = generator.permutation(np.concatenate(by_length).reshape(-1, size))
    return np.concatenate([batches.ravel(), order[full:]])
