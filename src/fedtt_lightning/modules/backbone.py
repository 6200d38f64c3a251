"""Loading a pretrained encoder or decoder with a fresh classification head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from fedtt_lightning.errors import ConfigError

BUILTIN = "builtin"


@dataclass(frozen=True)
class Backbone:
    """A model and the names of its parameters that no pretrained file held: they must train."""

    model: PreTrainedModel
    fresh: frozenset[str]


def load_backbone(name: str, num_labels: int, regression: bool = False) -> Backbone:
    """Load a model for sequence classification in float32, from the hub, a folder or `builtin`.

    Raises:
        ConfigError: there is no such model, it cannot be read, or its weights do not fit its
            configuration.
    """
    if name == BUILTIN:
        from fedtt_lightning.data.builtin_backbone import ensure_backbone

        name = str(ensure_backbone())
    problem_type = "regression" if regression else "single_label_classification"
    try:
        with _quiet():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                name,
                num_labels=num_labels,
                problem_type=problem_type,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # a head of another task is replaced by a fresh one
                output_loading_info=True,
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(_why_not(name, error)) from None
    mismatched = {entry[0] for entry in report["mismatched_keys"]}
    fresh = frozenset(report["missing_keys"]) | mismatched
    _check_body(name, model, fresh)
    if model.config.pad_token_id is None:  # decoders find a sequence's last token by it
        model.config.pad_token_id = model.config.eos_token_id
    return Backbone(model, fresh)


def _check_body(name: str, model: PreTrainedModel, fresh: frozenset[str]) -> None:
    """Raise ConfigError if weights below the head were not in the file (a pooler may be fresh)."""
    body = f"{model.base_model_prefix}."
    lacking = sorted(key for key in fresh if key.startswith(body) and "pooler" not in key)
    if lacking:
        raise ConfigError(
            f"model.backbone={name}: its weights do not fit its config.json; "
            f"{len(lacking)} parameters are missing or of another shape, first {lacking[0]}"
        )


def _why_not(name: str, error: Exception) -> str:
    """Say in one line why a model could not be loaded, and what to do."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            return f"model.backbone={name}: the folder holds no config.json, so it is no model"
        detail = " ".join(str(error).split())
        return f"model.backbone={name}: the model in this folder cannot be read: {detail[:200]}"
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        return f"model.backbone={name}: no such folder"
    return (
        f"model.backbone={name}: no such model on the hub, or the hub cannot be reached and the "
        "model is not in the local cache; a folder that holds the model (config.json and "
        "model.safetensors) can be given instead"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loading report and bar: what is missing is checked here, what is extra is not."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
