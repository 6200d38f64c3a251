"""What of a pretrained model trains: a PEFT method in it, or some of its own weights."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningModule
from peft import PeftConfig, TaskType, get_peft_model
from torch.optim import AdamW
from transformers import PreTrainedModel

from fedtt_lightning.errors import ConfigError


def choose_trained(
    model: PreTrainedModel,
    peft: PeftConfig | None,
    trainable: Collection[str] | None,
    task_type: TaskType,
    fresh: Collection[str] = (),
) -> Any:
    """Return the model, perhaps with a PEFT method in it, in train mode.

    Args:
        peft: the method, which decides what trains.
        trainable: patterns as of `train_only`; without them and `peft` every weight trains.
        task_type: PEFT's, for a method that names none.
        fresh: names of the parameters that train in any case.

    Raises:
        ConfigError: both `peft` and `trainable` are given, or one does not fit the model.
    """
    if peft is not None:
        if trainable is not None:
            raise ConfigError(
                "model.trainable goes without model.peft, which decides itself what trains: "
                "set model.peft to null, or leave model.trainable out"
            )
        parameters = dict(model.named_parameters(remove_duplicate=False))
        pretrained = {id(p) for name, p in parameters.items() if name not in fresh}
        model = adapt(model, peft, {id(p) for p in parameters.values()} - pretrained, task_type)
    elif trainable is not None:
        train_only(model, fresh, trainable)
    model.train()  # from_pretrained leaves it in eval mode, and so does the Trainer
    return model


def fused_adamw(module: LightningModule, lr: float, weight_decay: float) -> AdamW:
    """AdamW over what trains, fused: many small tensors, of which 1.2 ms a step against 7.6."""
    fused = True
    with suppress(RuntimeError):  # not attached to a Trainer
        # With a gradient scaler, Lightning cannot clip what a fused optimizer unscales.
        fused = module.trainer.precision != "16-mixed"
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return AdamW(trained, lr=lr, weight_decay=weight_decay, fused=fused)


def adapt(
    model: PreTrainedModel, peft: PeftConfig, fresh: Collection[int], task_type: TaskType
) -> Any:
    """Return the model with a PEFT method in it; parameters with an `id` in `fresh` train too.

    Raises:
        ConfigError: the method does not fit the model.
    """
    config = deepcopy(peft)
    if config.task_type is None:
        config.task_type = task_type  # SEQ_CLS: the head trains and is saved with the adapter
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"model.peft ({type(peft).__name__}): {error}") from None
    if config.is_prompt_learning:
        _try_prompt(adapted, type(peft).__name__)
    for name, parameter in adapted.named_parameters():
        # What PEFT trains as a copy, replaces or adapts is its own affair.
        taken_over = ".original_module." in name or ".base_layer." in name
        if id(parameter) in fresh and not taken_over:
            parameter.requires_grad_(True)
    return adapted


def _try_prompt(adapted: Any, method: str) -> None:
    """Raise ConfigError if a prompt or prefix does not work on the model.

    PEFT finds out in the first forward only: no `past_key_values` in DeBERTa (huggingface/peft
    pull request 2989 and transformers issue 26578), no `inputs_embeds` in T5's classifier. And
    decoders, given `inputs_embeds`, take the last position for the last token, padding or not.
    """
    kind = type(adapted.get_base_model()).__name__
    refused = f"model.peft ({method}) does not work on {kind}"
    pad = adapted.config.pad_token_id or 0
    one, two = [token for token in range(3) if token != pad][:2]
    device = next(adapted.parameters()).device
    padded = torch.tensor([[one, two, pad]], device=device)
    mask = torch.tensor([[1, 1, 0]], device=device)
    training = adapted.training
    adapted.eval()
    try:
        with torch.no_grad():
            alone = adapted(input_ids=padded[:, :2], attention_mask=mask[:, :2]).logits
            beside = adapted(input_ids=padded, attention_mask=mask).logits
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"{refused}: {reason}; use another method, such as LoRA") from None
    finally:
        adapted.train(training)
    if alone.dim() == 2 and not torch.allclose(alone, beside, rtol=1e-3, atol=1e-4):
        raise ConfigError(
            f"{refused}: its head cannot tell padding from text then, so predictions would depend "
            "on how texts are batched; use prefix tuning or another method"
        )


def train_only(model: PreTrainedModel, fresh: Collection[str], patterns: Collection[str]) -> None:
    """Freeze all but the parameters named in `fresh` and those that a pattern is found in.

    Raises:
        ConfigError: a pattern is no regular expression or is found in no name, or nothing trains.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    chosen = set(fresh)
    for pattern in patterns:
        try:
            found = {name for name in parameters if re.search(pattern, name)}
        except re.error as error:
            raise ConfigError(
                f"model.trainable: {pattern!r} is no regular expression ({error})"
            ) from None
        if not found:
            raise ConfigError(
                f"model.trainable: {pattern!r} is found in no parameter's name"
                f"{_near(pattern, parameters)}"
            )
        chosen |= found
    if not chosen:
        last = [*parameters][-1].partition(".")[0]
        raise ConfigError(
            "model.trainable is empty and the backbone's files hold every weight, its head too, so "
            f'nothing would train: name the head, such as ["^{last}"]'
        )
    model.requires_grad_(False)
    for name in chosen:
        parameters[name].requires_grad_(True)


def _near(pattern: str, names: Collection[str]) -> str:
    """Suggest names, or parts of names between dots, that look like the pattern."""
    parts = sorted({part for name in names for part in name.split(".") if not part.isdigit()})
    close = difflib.get_close_matches(re.sub(r"\W", "", pattern), parts, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; names look like {next(iter(names))}"
