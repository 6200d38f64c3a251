"""Products of cores: the two halves of a tensor train that splits on the boundary."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def left_chain(cores: Sequence[Tensor]) -> Tensor:
    """Cores (r_{i}, k_i, r_{i+1}) with r_0 = 1, multiplied to L of shape (k_0 ... k_n, r).

    Leading dimensions that all cores share, such as one of clients, stay in front.
    """
    lead = cores[0].shape[:-3]
    chain = cores[0].reshape(*lead, -1, cores[0].shape[-1])
    for core in cores[1:]:
        # (K, r) @ (r, k s) is already in the memory order of (K k, s).
        product = chain @ core.reshape(*lead, core.shape[-3], -1)
        chain = product.reshape(*lead, -1, core.shape[-1])
    return chain


def right_chain(cores: Sequence[Tensor]) -> Tensor:
    """Cores (r_{i}, k_i, r_{i+1}), the last rank 1, multiplied to R of shape (r, k_0 ... k_n).

    Leading dimensions that all cores share stay in front.
    """
    lead = cores[-1].shape[:-3]
    chain = cores[-1].reshape(*lead, cores[-1].shape[-3], -1)
    for core in reversed(cores[:-1]):
        product = core.reshape(*lead, -1, core.shape[-1]) @ chain
        chain = product.reshape(*lead, core.shape[-3], -1)
    return chain


def left_chain_gradients(cores: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Gradients of the cores of `left_chain`, each (..., *core.shape), from L's, (..., K, r).

    Leading dimensions of `grad`, such as one of examples, stay in front.
    """
    lead, found = grad.shape[:-2], []
    for i in range(len(cores) - 1, 0, -1):
        prefix, core = left_chain(cores[:i]), cores[i]
        grad = grad.reshape(*lead, len(prefix), -1)  # (..., K, k s)
        found.append((prefix.T @ grad).reshape(*lead, *core.shape))
        grad = grad @ core.reshape(core.shape[0], -1).T
    return [grad.reshape(*lead, *cores[0].shape), *reversed(found)]


def right_chain_gradients(cores: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Gradients of the cores of `right_chain`, each (..., *core.shape), from R's, (..., r, K)."""
    lead, found = grad.shape[:-2], []
    for i, core in enumerate(cores[:-1]):
        suffix = right_chain(cores[i + 1 :])
        grad = grad.reshape(*lead, -1, suffix.shape[1])  # (..., r k, K)
        found.append((grad @ suffix.T).reshape(*lead, *core.shape))
        grad = core.reshape(-1, core.shape[2]).T @ grad
    return [*found, grad.reshape(*lead, *cores[-1].shape)]


def half_chains(cores: Sequence[Tensor], split: int) -> tuple[Tensor, Tensor]:
    """L (in x r) from the first `split` cores and R (r x out) from the others; the matrix is L R.

    Leading dimensions that all cores share stay in front.

    A layer computes (x L) R, at 2 r (in + out) FLOPs a token in place of 2 in out, and the matrix
    is never built. Everything is contiguous, and so are the gradients of contiguous cores, which is
    what the gradient buckets of DDP want.
    """
    return left_chain(cores[:split]), right_chain(cores[split:])


def to_dense(cores: Sequence[Tensor], split: int) -> Tensor:
    """The whole matrix (in x out), for tests and export."""
    left, right = half_chains(cores, split)
    return left @ right
