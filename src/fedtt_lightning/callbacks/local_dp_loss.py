"""Whether examples count each by itself, without which clipping bounds nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils.data import default_collate
from torchmetrics import Metric

from fedtt_lightning.callbacks.lightning_private import prepare_batch
from fedtt_lightning.callbacks.parts import client_data, trainable_parameters
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
    examples = _some_examples(trainer, _EXAMPLES)
    with _probing(trainer, module, needs) as step:
        module.eval()
        alone = [step([example]).item() for example in examples]
        together, again = step(examples).item(), step(examples).item()
    if together != again:
        rank_zero_warn(
            f"the module's loss is random even in eval mode, so {needs} cannot see whether it is a "
            "mean over the examples of a batch, as it must be"
        )
    elif abs(together - np.mean(alone)) > _tolerance(module) * max(map(abs, alone)):
        raise ConfigError(
            f"the module's training_step gives {together:.6g} for {len(alone)} examples, whose "
            f"losses alone have the mean {np.mean(alone):.6g}, but {needs} needs a loss that is a "
            "mean over examples: average it over them, each by itself, without weights that "
            "depend on the batch"
        )


def check_examples_apart(trainer: Trainer, module: LightningModule) -> None:
    """Raise FederationError if a tensor has no gradient for each of two, and of three examples.

    A module whose first dimension is another than the examples, such as positions, may look right
    in a batch of as many examples; never in both.
    """
    from fedtt_lightning.privacy.per_example import PerExampleGradients

    trained = trainable_parameters(module)
    with _probing(trainer, module, "LocalDP") as step:
        for number in (2, 3):
            if len(examples := _some_examples(trainer, number)) < number:
                continue
            gradients = PerExampleGradients(module)
            try:
                loss = step(examples)
                for parameter in trained.values():  # as Lightning clears them before backward
                    parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
                loss.backward()
                gradients.check(trained, number)
            finally:
                gradients.detach()
                for parameter in trained.values():
                    parameter.grad = None


def _tolerance(module: LightningModule) -> float:
    """Return what rounding may change in a loss: with weights in half precision, more."""
    dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
    return max([_TOLERANCE, *(2 * torch.finfo(dtype).eps for dtype in dtypes)])


def _some_examples(trainer: Trainer, number: int) -> list[Any]:
    data = client_data(trainer).train_data
    chosen = np.unique(np.linspace(0, len(data) - 1, number).astype(int))
    return [data[int(i)] for i in chosen]


@contextmanager
def _probing(
    trainer: Trainer, module: LightningModule, needs: str
) -> Iterator[Callable[[list[Any]], Tensor]]:
    """Yield the module's loss of a list of examples; what that leaves behind is undone."""
    collate = client_data(trainer).loader.collate_fn or default_collate
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    modes = {part: part.training for part in module.modules()}
    module.log = lambda *_, **__: None  # type: ignore[method-assign]  # there is no epoch yet

    def step(chunk: list[Any]) -> Tensor:
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
        loss: Tensor = found["loss"] if isinstance(found, Mapping) else found
        return loss

    try:
        yield step
    finally:
        del module.log
        for part, mode in modes.items():
            part.training = mode
            if isinstance(part, Metric):
                part.reset()
