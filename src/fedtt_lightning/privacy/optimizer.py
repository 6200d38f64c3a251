"""DP-SGD around any optimizer, in a handful of operations a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from fedtt_lightning.errors import FederationError


class PrivateOptimizer(DPOptimizer):
    """Clips each example's gradient, adds noise to their sum and lets `optimizer` use the result.

    Opacus's DPOptimizer (Abadi et al., arXiv 1607.00133) for federated visits: only the tensors
    named by `begin_visit` are clipped, noised and stepped; all others keep no gradient. All of them
    are handled as one flat vector: a norm, a product and a draw for a step, however many tensors.
    An example whose gradient is not finite counts as zero, or else it could not be bounded.
    A step that was not announced by `arm` raises FederationError, and so does anything else that
    writes to the tensors between two steps.

    Processes that train a visit together hold parts of each batch: they add up their clipped sums,
    and each adds the same keyed noise to the total, so that all step alike. Opacus's
    DistributedDPOptimizer, of the same distribution, adds noise on rank 0 before it sums up.
    """

    def __init__(self, optimizer: Optimizer, processes: int = 1, group: Any = None) -> None:
        """Wrap an optimizer.

        Args:
            processes: how many train a visit together.
            group: their torch.distributed group, None for all processes.
        """
        self._processes, self._group = processes, group
        self._trained: list[Parameter] = []
        self._kept: dict[Parameter, tuple[int, ...]] = {}
        self._armed: tuple[int, bool, int] | None = None
        self._flat: Tensor | None = None
        self._left: Tensor | None = None
        self.steps = 0
        super().__init__(
            optimizer, noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=1.0
        )

    @property
    def params(self) -> list[Parameter]:
        """The tensors that train in this visit."""
        return self._trained

    def begin_visit(
        self,
        trained: Sequence[Parameter],
        noise_multiplier: float,
        clip: float,
        expected_batch_size: float,
        kept: Mapping[Parameter, tuple[int, ...]] | None = None,
    ) -> None:
        """Begin with a client's noise; `steps` counts its private steps from here.

        Args:
            trained: the tensors that are clipped together, noised and stepped.
            noise_multiplier: standard deviation of the noise on the sum, in units of `clip`.
            clip: largest L2 norm of an example's gradient.
            expected_batch_size: what the noisy sum is divided by.
            kept: shapes of the leading blocks outside of which tensors are padding and get no
                noise, for a client of smaller rank.
        """
        self._trained = list(trained)
        self._kept = dict(kept or {})
        self.noise_multiplier, self.max_grad_norm = noise_multiplier, clip
        self.expected_batch_size = expected_batch_size
        self.steps, self._armed, self._left = 0, None, None
        self.zero_grad(set_to_none=True)

    def expect(self, values: Sequence[Tensor]) -> None:
        """Say what the tensors that train hold before the next step; a step says it itself."""
        self._left = _bits(values)

    def check_untouched(self) -> None:
        """Raise FederationError if something else has written to the tensors since."""
        if self._left is not None and not torch.equal(self._left, _bits(self._trained)):
            raise FederationError(
                "what trains was changed by something other than a private step: remove it from "
                "trainer.callbacks or the module, which may not write to parameters during a visit"
            )

    def arm(self, seed: int, examples: int, empty: bool) -> None:
        """Allow one step, with the noise of `seed`, for a mean loss over `examples` examples.

        Args:
            seed: the same in all processes of a visit.
            examples: those in this process.
            empty: a stand-in for a batch that has no example here: its gradient does not count.
        """
        self.check_untouched()
        self._armed = (examples, empty, seed)

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:
        """Opacus's, but for its shortcut: without tensors it would let any gradient through."""
        if self._armed is None:
            raise FederationError(
                "an optimizer step was not announced, so its noise is unknown: the module's "
                "training_step or optimizer_step must step once for each batch"
            )
        self.clip_and_accumulate()
        self.add_noise()
        self.scale_grad()
        if self.step_hook is not None:
            self.step_hook(self)
        return True

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        result: float | None = super().step(closure)
        self._left = _bits(self._trained)
        return result

    def clip_and_accumulate(self) -> None:
        assert self._armed is not None
        examples, empty, _ = self._armed
        dtype = self._trained[0].dtype
        samples = [self._get_flat_grad_sample(p).to(dtype) for p in self._trained]
        flat = torch.cat([sample.flatten(1) for sample in samples], dim=1)
        self.zero_grad(set_to_none=True)
        self._flat = flat.new_zeros(flat.shape[1]) if empty else self._clipped(flat, examples)
        if self._processes > 1:
            torch.distributed.all_reduce(self._flat, group=self._group)

    def _clipped(self, flat: Tensor, examples: int) -> Tensor:
        """Return the clipped sum (values,) of gradients (examples, values) of a mean loss."""
        norms = torch.linalg.vector_norm(flat, dim=1) * examples
        finite = torch.isfinite(norms)
        if not bool(finite.all()):
            flat = torch.where(finite[:, None], flat, 0.0)
            norms = torch.where(finite, norms, 0.0)
        factors = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0) * examples
        return factors @ flat

    def add_noise(self) -> None:
        """Add noise drawn by NumPy, which uses all bits of a seed.

        Of torch's on a CPU the lower 32 bits count, few enough to try all of them.
        """
        assert self._flat is not None and self._armed is not None
        std = self.noise_multiplier * self.max_grad_norm
        if std > 0:
            draw = np.random.default_rng(self._armed[2]).standard_normal(len(self._flat)) * std
            self._flat = self._flat + torch.from_numpy(draw).to(self._flat)

    def scale_grad(self) -> None:
        assert self._flat is not None
        parts = (self._flat / self.expected_batch_size).split([p.numel() for p in self._trained])
        for parameter, part in zip(self._trained, parts, strict=True):
            grad = part.view_as(parameter).to(parameter.dtype)
            if parameter in self._kept:
                block = tuple(slice(size) for size in self._kept[parameter])
                whole = torch.zeros_like(grad)
                whole[block] = grad[block]
                grad = whole
            parameter.grad = grad
        self._flat, self._armed = None, None
        self.steps += 1

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Clear gradients, and those of single examples also of tensors that do not train."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad_sample = None
        self.original_optimizer.zero_grad(set_to_none)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("step_hook", "_group")}


@torch.no_grad()
def _bits(tensors: Iterable[Tensor]) -> Tensor:
    """Return all values as one row of integers, of which NaN equals itself."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors]).view(torch.int16)
