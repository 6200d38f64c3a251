"""The trained tensors of several clients in one piece of memory each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter


class ClientStacks:
    """One tensor (clients, *shape) for each name, and each client's own as Parameters in it.

    A forward pass uses `leaves`, in which autograd finds the gradients of all clients at once;
    optimizers step the Parameters of `own`, which are views of the same memory.

    Args:
        tensors: what all clients begin from, by name.
        clients: how many have room.
    """

    def __init__(self, tensors: Mapping[str, Tensor], clients: int) -> None:
        self._stacks = {
            name: tensor.detach().expand(clients, *tensor.shape).clone()
            for name, tensor in tensors.items()
        }
        self.own = [
            {name: Parameter(stack[client]) for name, stack in self._stacks.items()}
            for client in range(clients)
        ]
        self._leaves: dict[str, Tensor] = {}
        self._made_for: tuple[Collection[str], int] | None = None

    def leaves(self, names: Collection[str], clients: int) -> dict[str, Tensor]:
        """Return (clients, *shape) of the first `clients` for each of `names`; no gradients yet."""
        if self._made_for != (names, clients):
            self._made_for = (names, clients)
            self._leaves = {
                name: self._stacks[name][:clients].detach().requires_grad_() for name in names
            }
        for leaf in self._leaves.values():
            leaf.grad = None
        return self._leaves

    @torch.no_grad()
    def hand_out(self, sizes: Sequence[int]) -> None:
        """Give each client its gradients, from those of the mean loss over all examples.

        Args:
            sizes: examples of each client; its part of the loss becomes the mean over its own.
        """
        total, even = sum(sizes), len(set(sizes)) == 1
        for name, leaf in self._leaves.items():
            if leaf.grad is not None and even:
                leaf.grad *= len(sizes)
            elif leaf.grad is not None:
                factors = torch.tensor(sizes, dtype=torch.float64).reciprocal_() * total
                leaf.grad *= factors.view(-1, *[1] * (leaf.dim() - 1)).to(leaf.grad)
            gradients = [None] * len(sizes) if leaf.grad is None else leaf.grad.unbind()
            for own, gradient in zip(self.own, gradients, strict=False):
                own[name].grad = gradient

    @torch.no_grad()
    def write(self, client: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a client's values into the tensors of the same names."""
        for name, stack in self._stacks.items():
            tensors[name].copy_(stack[client])

    def state_dict(self) -> dict[str, Tensor]:
        return {name: stack.clone() for name, stack in self._stacks.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, stack in self._stacks.items():
            stack.copy_(state[name])
