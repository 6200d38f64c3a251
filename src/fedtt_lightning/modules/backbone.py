"""Loading a pretrained model: with a fresh classification head, or as the language model it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from fedtt_lightning.errors import ConfigError

BUILTIN = "builtin"
DTYPES: dict[str, Any] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "auto": "auto",
}


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
    fresh = _fresh(report)
    _check_body(name, model, fresh)
    if model.config.pad_token_id is None:  # decoders find a sequence's last token by it
        model.config.pad_token_id = model.config.eos_token_id
    return Backbone(model, fresh)


def load_causal_lm(
    name: str,
    dtype: str = "float32",
    quantization: str | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """Load a causal language model with its own head, from the hub or a folder.

    Args:
        dtype: bfloat16, float16, float32 or, for that of the files, auto.
        quantization: 8bit or 4bit (NF4) linears of bitsandbytes, which compute in `dtype`.
        attn_implementation: of transformers, such as sdpa or eager; its own choice if not given.

    Raises:
        ConfigError: there is no such model, it cannot be read or is no causal language model, or
            what it needs is not there.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"model.dtype is {dtype!r}, but must be one of {', '.join(DTYPES)}")
    if name == BUILTIN:
        raise ConfigError(
            "model.backbone=builtin is an encoder: name a causal language model on the hub, or a "
            "folder that holds one"
        )
    options: dict[str, Any] = {}
    if quantization is not None:
        options["quantization_config"] = _quantized(quantization, dtype)
    try:
        with _quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=DTYPES[dtype],
                attn_implementation=attn_implementation,
                ignore_mismatched_sizes=True,  # they are told of below, in one line
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ConfigError(_why_not(name, error)) from None
    if type(model.config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise ConfigError(
            f"model.backbone={name}: a {model.config.model_type} sees the words that it should "
            "predict: name a causal language model, or train it as a SequenceClassifier"
        )
    if lacking := sorted(_fresh(report)):
        raise ConfigError(_unfit(name, lacking))
    return model


def _quantized(quantization: str, dtype: str) -> Any:
    """Return the configuration of bitsandbytes, or raise ConfigError if it cannot run."""
    wanted = f"model.quantization={quantization}"
    if quantization not in ("8bit", "4bit"):
        raise ConfigError(f"{wanted} is none of 8bit, 4bit and null")
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{wanted} needs bitsandbytes, which is not installed: pip install bitsandbytes, or "
            "set it to null"
        )
    if not torch.cuda.is_available():
        raise ConfigError(f"{wanted} needs a GPU, and there is none: set it to null")
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if dtype == "auto" else DTYPES[dtype]
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
    )


def _fresh(report: Any) -> frozenset[str]:
    """Return the parameters that no file held, or only in another shape."""
    return frozenset(report["missing_keys"]) | {entry[0] for entry in report["mismatched_keys"]}


def _unfit(name: str, lacking: list[str]) -> str:
    return (
        f"model.backbone={name}: its weights do not fit its config.json; "
        f"{len(lacking)} parameters are missing or of another shape, first {lacking[0]}"
    )


def _check_body(name: str, model: PreTrainedModel, fresh: frozenset[str]) -> None:
    """Raise ConfigError if weights below the head were not in the file (a pooler may be fresh)."""
    body = f"{model.base_model_prefix}."
    lacking = sorted(key for key in fresh if key.startswith(body) and "pooler" not in key)
    if lacking:
        raise ConfigError(_unfit(name, lacking))


def _why_not(name: str, error: Exception) -> str:
    """Say in one line why a model could not be loaded, and what to do."""
    detail = " ".join(str(error).split())[:200]
    if isinstance(error, ImportError):
        return f"model.backbone={name}: {detail}"
    if isinstance(error.__cause__, GatedRepoError):
        return (
            f"model.backbone={name}: the model is gated: accept its terms on its page on the hub "
            "and log in with `hf auth login` (or set HF_TOKEN), or name a folder that holds it"
        )
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            return f"model.backbone={name}: the folder holds no config.json, so it is no model"
        return f"model.backbone={name}: the model in this folder cannot be read: {detail}"
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
