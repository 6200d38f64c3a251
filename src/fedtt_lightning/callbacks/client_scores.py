"""The scores of clients on their held-out examples, with the global adapter and with their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.lightning_private import prepare_batch
from fedtt_lightning.callbacks.parts import client_data
from fedtt_lightning.callbacks.personalization import Personalization, find_personalization
from fedtt_lightning.callbacks.progress import progress
from fedtt_lightning.data.evaluation_loader import evaluation_loader
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import FederatedLoop


def client_scores(
    trainer: Trainer, module: LightningModule, clients: np.ndarray, batch_size: int
) -> dict[str, np.ndarray]:
    """Return the mean scores of clients, float64 (clients,): `global` and, if any, `personal`.

    The model must hold the global adapter, and does so again afterwards. Each process takes a part
    of the clients, and all return the whole.
    """
    loop, data = find_federation(trainer).loop, client_data(trainer)
    personalization = find_personalization(trainer)
    held_out = data.held_out
    assert held_out is not None
    places = np.arange(len(clients))[trainer.global_rank :: trainer.world_size]
    owners = np.repeat(places, held_out.sizes[clients[places]])
    numbers = np.concatenate([held_out[clients[place]] for place in places] or [owners])
    cuts = _cuts(owners, batch_size, mixed=personalization is None)
    batches = [numbers[cut] for cut in cuts]
    examples, options = data.evaluation_examples()
    loader = evaluation_loader(examples, batches, options, loop.planner.experiment)
    kinds = ("global",) if personalization is None else ("global", "personal")
    totals = torch.zeros(len(kinds), len(clients), dtype=torch.float64)
    own: dict[str, Tensor] = {}
    last = -1
    with _evaluating(trainer, module), progress(trainer, "Clients", len(cuts)) as advance:
        for cut, batch in zip(cuts, loader, strict=True):
            owner = torch.from_numpy(owners[cut])
            batch = prepare_batch(trainer, module, batch)
            scores = _score(trainer, module, batch, len(owner))
            totals[0].index_add_(0, owner, scores)
            if personalization is not None:
                if last != int(owner[0]):
                    last = int(owner[0])
                    own = _own_tensors(trainer, loop, personalization, int(clients[last]))
                if own:
                    with _replaced(loop, own):
                        scores = _score(trainer, module, batch, len(owner))
                totals[1].index_add_(0, owner, scores)
            advance()
    totals = totals.to(trainer.strategy.root_device)
    totals = trainer.strategy.reduce(totals, reduce_op="sum").cpu()
    means = totals.numpy() / held_out.sizes[clients]
    return dict(zip(kinds, means, strict=True))


def _cuts(owners: np.ndarray, size: int, mixed: bool) -> list[slice]:
    """Cut examples, which lie client by client, into batches; not `mixed`: of one client each."""
    ends = [len(owners)] if mixed else [*np.flatnonzero(np.diff(owners)) + 1, len(owners)]
    cuts, begin = [], 0
    for end in map(int, ends):
        cuts += [slice(at, min(at + size, end)) for at in range(begin, end, size)]
        begin = end
    return cuts


def _own_tensors(
    trainer: Trainer, loop: FederatedLoop, personalization: Personalization, client: int
) -> dict[str, Tensor]:
    """Return what differs from the global adapter for a client: its rank, its private tensors."""
    begin = loop.adapter_for(client)
    tensors = {} if begin is loop.adapter else begin.tensors()
    return tensors | (personalization.values(trainer, client, loop.round + 1) or {})


def _score(trainer: Trainer, module: LightningModule, batch: Any, size: int) -> Tensor:
    """Return the scores (B,) of a batch, float64 on the CPU."""
    with trainer.precision_plugin.forward_context():
        scores = module.score(batch)  # type: ignore[operator]
    if not isinstance(scores, Tensor) or scores.shape != (size,):
        found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else repr(scores)[:40]
        raise ConfigError(
            f"{type(module).__name__}.score returned {found} for a batch of {size} examples: "
            "return a tensor (B,), one number for each example"
        )
    return scores.detach().cpu().double()


@contextmanager
def _replaced(loop: FederatedLoop, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put a client's tensors into the model, and the global ones back."""
    adapter = loop.adapter.tensors()
    try:
        for name, value in tensors.items():
            loop.tensors[name].copy_(value)
        yield
    finally:
        for name in tensors:
            loop.tensors[name].copy_(adapter[name])


@contextmanager
def _evaluating(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Be as in a validation, then leave modes, stage and random generators as they were."""
    modes = [(part, part.training) for part in module.modules()]
    with torch.no_grad(), isolate_rng():
        module.eval()
        trainer.validating = True  # transfer hooks may augment while training
        try:
            yield
        finally:
            trainer.training = True
            for part, mode in modes:
                part.training = mode
