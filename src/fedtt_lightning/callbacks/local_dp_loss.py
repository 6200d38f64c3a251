"""Whether a module's loss is a mean over examples, without which clipping bounds nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch.utils.data import default_collate
from torchmetrics import Metric

from fedtt_lightning.callbacks.lightning_private import prepare_batch
from fedtt_lightning.callbacks.parts import client_data
from fedtt_lightning.errors import ConfigError

_EXAMPLES = 8
_TOLERANCE = 1e-3


def check_mean_loss(trainer: Trainer, module: LightningModule, needs: str = "LocalDP") -> None:
    """Raise ConfigError if the loss of a few examples together is not the mean of theirs alone.

    A sum, a mean over the batch's tokens, weights normalized over a batch, or examples that are
    compared with each other let one example change the gradients of others, and there is no bound
    on what it changes in all. Looked at in eval mode; a loss that is random even so is not checked.

    Args:
        needs: what needs such a loss, to say so.
    """
    data = client_data(trainer)
    chosen = np.unique(np.linspace(0, len(data.train_data) - 1, _EXAMPLES).astype(int))
    examples = [data.train_data[int(i)] for i in chosen]
    collate = data.loader.collate_fn or default_collate
    modes = {part: part.training for part in module.modules()}
    module.eval()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no epoch yet
    try:
        takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)

        def loss(chunk: list[Any]) -> float:
            batch = prepare_batch(trainer, module, collate(chunk))
            with (
                trainer.precision_plugin.forward_context(),
                torch.autocast(module.device.type, enabled=False),
            ):
                found = module.training_step(*([batch, 0] if takes_index else [batch]))
            if found is None:
                raise ConfigError(
                    f"the module's training_step returns no loss, but {needs} needs one of each "
                    "batch: return it"
                )
            return (found["loss"] if isinstance(found, Mapping) else found).item()

        alone = [loss([example]) for example in examples]
        together, again = loss(examples), loss(examples)
    finally:
        del module.log
        for part, mode in modes.items():
            part.training = mode
            if isinstance(part, Metric):
                part.reset()
    if together != again:
        rank_zero_warn(
            f"the module's loss is random even in eval mode, so {needs} cannot see whether it is a "
            "mean over the examples of a batch, as it must be"
        )
    elif abs(together - np.mean(alone)) > _TOLERANCE * max(map(abs, alone)):
        raise ConfigError(
            f"the module's training_step gives {together:.6g} for {len(alone)} examples, whose "
            f"losses alone have the mean {np.mean(alone):.6g}, but {needs} needs a loss that is a "
            "mean over examples: average it over them, each by itself, without weights that "
            "depend on the batch"
        )
