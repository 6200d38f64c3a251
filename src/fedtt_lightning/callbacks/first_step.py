"""The first step of clients side by side, held against the same step of clients alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torchmetrics import Metric

from fedtt_lightning.callbacks.lightning_private import prepare_batch
from fedtt_lightning.cohort.modules import ClientModules, Clients
from fedtt_lightning.data.round_loader import RoundLoader
from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import FederatedLoop, Visit, seed_all
from fedtt_lightning.federation.seeds import drawn_since

_TOLERANCE = {"64-true": 1e-6, "32-true": 1e-3}  # relative; wrong gradients are off by far more
_LOW_PRECISION = 0.2
_HALVES = (torch.bfloat16, torch.float16)


class FirstStep:
    """Compares, once a fit, gradients of the first and the last client of a group.

    Clients side by side get their gradients from one loss over all of them. That is right only if
    it is a mean over examples that are computed each by itself, by modules that are called with
    the examples first. Nobody can see that in a module, but in its gradients. The training step
    runs three times more, without dropout and without logging; metrics in it are reset.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self._trainer, self._module = trainer, module

    def check(
        self,
        loop: FederatedLoop,
        visits: Sequence[Visit],
        batch: Any,
        clients: Clients,
        modules: ClientModules,
    ) -> None:
        """Raise FederationError if clients would not learn what they learn alone."""
        random, names = clients.random, list(clients.stacks)
        seed, random.off = visits[0].seed_at(0, "step 0"), True
        module, log = self._module, self._module.__dict__.get("log")
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        try:
            with random:
                seed_all(seed)
                with modules.attached(clients):
                    together = self._gradients(
                        batch, [*clients.stacks.values(), *loop.tensors.values()]
                    )
                self._refuse(together[len(names) :], loop, drawn_since(seed))
                for client in (0, len(visits) - 1):
                    loader = self._trainer.train_dataloader
                    assert isinstance(loader, RoundLoader)
                    own = loader.alone(visits[client], 0)
                    own = prepare_batch(self._trainer, module, own)
                    alone = self._gradients(own, [loop.tensors[name] for name in names])
                    scale = sum(clients.sizes) / clients.sizes[client]
                    mine = [g if g is None else g[client] * scale for g in together[: len(names)]]
                    self._compare(visits[client], mine, alone)
        finally:
            random.off = False
            del module.log
            if log is not None:
                module.log = log  # type: ignore[method-assign]
            for part in module.modules():
                if isinstance(part, Metric):
                    part.reset()

    def _gradients(self, batch: Any, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        step = self._module.training_step
        takes_index = is_param_in_hook_signature(step, "batch_idx", min_args=2)
        with self._trainer.precision_plugin.train_step_context(), torch.enable_grad():
            found = step(*([batch, 0] if takes_index else [batch]))
            loss = found["loss"] if isinstance(found, Mapping) else found
            if loss is None:
                raise FederationError(
                    "training_step returns no loss, of which clients side by side need one for "
                    "each batch: return it, or set federation.cohort_batch to 1"
                )
        return torch.autograd.grad(loss, inputs, allow_unused=True)

    def _refuse(self, strays: Sequence[Tensor | None], loop: FederatedLoop, drawn: bool) -> None:
        found = [n for n, g in zip(loop.tensors, strays, strict=True) if g is not None]
        if found:
            raise FederationError(
                f"{found[0]} and {len(found) - 1} other tensors are used outside of the forward of "
                "the module that holds them, where clients side by side cannot have their own: set "
                "federation.cohort_batch to 1, or freeze them"
            )
        if drawn:
            raise FederationError(
                "training_step draws random numbers other than by dropout, which clients side by "
                "side would share: set federation.cohort_batch to 1"
            )

    def _compare(
        self, visit: Visit, mine: Sequence[Tensor | None], alone: Sequence[Tensor | None]
    ) -> None:
        norm = _norm(alone)
        if not isfinite(norm):
            return  # with NaN or Inf in its data it is left out anyway
        difference = _norm(
            b if a is None else a if b is None else a - b for a, b in zip(mine, alone, strict=True)
        )
        halves = any(p.dtype in _HALVES for p in self._module.parameters())
        precision = "half weights" if halves else str(self._trainer.precision)
        tolerance = _TOLERANCE.get(precision, _LOW_PRECISION)
        if not difference <= tolerance * norm + 1e-12:
            raise FederationError(
                f"client {visit.client} has another gradient beside others than alone (off by "
                f"{difference / max(norm, 1e-12):.1g} of it): training_step's loss must be a mean "
                "over examples, each computed by itself, of a batch without random changes in the "
                "collate function; or set federation.cohort_batch to 1"
            )


def _norm(gradients: Iterable[Tensor | None]) -> float:
    squares = (float(g.double().square().sum()) for g in gradients if g is not None)
    return float(sum(squares)) ** 0.5
