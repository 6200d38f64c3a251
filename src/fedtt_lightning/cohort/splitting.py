"""Arguments of a call divided among clients, and their results put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fedtt_lightning.errors import FederationError


def split(tree: Any, sizes: Sequence[int]) -> tuple[list[Any], bool]:
    """Return the part of each client in nested arguments, and whether anything was divided.

    Divided are tensors whose first dimension counts the `sum(sizes)` examples, in clients' order;
    without any, those in which it is a multiple of that (examples × tokens). All others are
    everybody's.
    """
    leaves, spec = pytree.tree_flatten(tree)
    total = sum(sizes)
    lengths = {len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
    counted = {total} & lengths or {length for length in lengths if length % total == 0}
    parts: list[list[Any]] = [[] for _ in sizes]
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) in counted:
            times = len(leaf) // total
            pieces: Sequence[Any] = leaf.split([size * times for size in sizes])
        else:
            pieces = [leaf] * len(sizes)
        for part, piece in zip(parts, pieces, strict=True):
            part.append(piece)
    return [pytree.tree_unflatten(part, spec) for part in parts], bool(counted)


def join(results: Sequence[Any], sizes: Sequence[int], divided: bool) -> Any:
    """Put the clients' results together along the first dimension.

    Args:
        divided: whether the arguments were; if not, a first dimension of 1 stands for each example.

    Raises:
        FederationError: a result does not belong to single examples.
    """
    flat = [pytree.tree_flatten(result) for result in results]
    spec = flat[0][1]
    joined: list[Any] = []
    for leaves in zip(*(leaves for leaves, _ in flat), strict=True):
        if not isinstance(leaves[0], Tensor):
            joined.append(leaves[0])
            continue
        if leaves[0].dim() == 0 or not (divided or all(len(leaf) == 1 for leaf in leaves)):
            raise FederationError("a result is not one of single examples")
        if not divided:
            leaves = tuple(
                leaf.expand(size, *leaf.shape[1:]) for leaf, size in zip(leaves, sizes, strict=True)
            )
        joined.append(torch.cat(leaves))
    return pytree.tree_unflatten(joined, spec)
