"""The trained tensors of several clients in one piece of memory each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter


class ClientStacks:
    """One tensor (clients, *shape) for each name, and each client's own as Parameters in it.

    A forward pass uses `leaves`, in which autograd finds the gradients of all clients at once.
    Optimizers step those, or the Parameters of `own`, which are views of the same memory.

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
    def scale(self, sizes: Sequence[int]) -> None:
        """Make of the gradients of the mean loss over all examples those of each client's own.

        Args:
            sizes: examples of each client.
        """
        gradients = self._gradients()
        if gradients and len(set(sizes)) == 1:
            torch._foreach_mul_(gradients, float(len(sizes)))
            return
        factors = torch.tensor(sizes, dtype=torch.float64).reciprocal_() * sum(sizes)
        _multiply(gradients, factors)

    @torch.no_grad()
    def clip(self, largest: float, by_value: bool) -> None:
        """Clip each client's gradients as torch.nn.utils does those of one model."""
        gradients = self._gradients()
        if by_value:
            for gradient in gradients:
                gradient.clamp_(-largest, largest)
        elif gradients:
            norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
            norm = torch.linalg.vector_norm(torch.stack(norms), dim=0)
            _multiply(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))

    @torch.no_grad()
    def hand_out(self) -> None:
        """Give each client its gradients, None where there are none."""
        for name, leaf in self._leaves.items():
            gradients = [None] * len(leaf) if leaf.grad is None else leaf.grad.unbind()
            for own, gradient in zip(self.own, gradients, strict=False):
                own[name].grad = gradient

    def _gradients(self) -> list[Tensor]:
        return [leaf.grad for leaf in self._leaves.values() if leaf.grad is not None]

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


def _multiply(gradients: Sequence[Tensor], factors: Tensor) -> None:
    """Multiply each client's gradients with its factor."""
    for gradient in gradients:
        gradient *= factors.view(-1, *[1] * (gradient.dim() - 1)).to(gradient)
