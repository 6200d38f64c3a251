"""Where adapters go: the table of model families, and the checks of what a user names instead."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedtt_lightning.errors import ConfigError


@dataclass(frozen=True)
class Family:
    """Where adapters go in models of one family, by the names of their modules.

    Attributes:
        linears: name endings of a block's two linears that an adapter follows.
        dense: full name of the classifier's layer before its output layer, which can be
            tensorized; None if the head is one layer.
        output: full name of the output layer.
    """

    linears: tuple[str, str]
    dense: str | None = None
    output: str = "classifier"


def _bert(dense: str, output: str = "classifier") -> Family:
    # After the attention's output projection and after the MLP's, before residual and LayerNorm.
    return Family(("attention.output.dense", "output.dense"), dense, output)


_LLAMA = Family(("self_attn.o_proj", "mlp.down_proj"), output="score")

FAMILIES: dict[str, Family] = {
    "bert": _bert("bert.pooler.dense"),
    "roberta": _bert("classifier.dense", "classifier.out_proj"),
    "xlm-roberta": _bert("classifier.dense", "classifier.out_proj"),
    "camembert": _bert("classifier.dense", "classifier.out_proj"),
    "electra": _bert("classifier.dense", "classifier.out_proj"),
    "deberta": _bert("pooler.dense"),
    "deberta-v2": _bert("pooler.dense"),  # v3 models name this type too
    "distilbert": Family(("attention.out_lin", "ffn.lin2"), "pre_classifier", "classifier"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi3": _LLAMA,
    "phi": Family(("self_attn.dense", "mlp.fc2"), output="score"),
    "gpt_neox": Family(("attention.dense", "mlp.dense_4h_to_h"), output="score"),
    "gpt2": Family(("attn.c_proj", "mlp.c_proj"), output="score"),
    "opt": Family(("self_attn.out_proj", "fc2"), output="score"),
    # Self-attention and MLP, so two in decoder blocks too; `target_modules=["o", "wo"]` adds the
    # cross-attention's output.
    "t5": Family(
        ("SelfAttention.o", "DenseReluDense.wo"),
        "classification_head.dense",
        "classification_head.out_proj",
    ),
}
"""Where adapters and a tensorized head go, by the `model_type` of a transformers config."""

# Heads of other families and tasks, by their usual names.
_HEADS = ("classifier", "score", "qa_outputs", "classification_head")


def default_targets(model: nn.Module) -> list[str]:
    """The name endings of the model's family. Raises ConfigError, naming linears, for another."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type in FAMILIES:
        return list(FAMILIES[model_type].linears)
    endings = sorted(
        {_ending(name) for name, module in model.named_modules() if _is_linear(module)}
    )
    raise ConfigError(
        f"no places are known for model type {model_type!r}: set target_modules to the two linears "
        f"of a block that end its attention and its MLP; linears here: {', '.join(endings[:16])}"
    )


def check_targets(model: nn.Module, targets: list[str] | str) -> None:
    """Raises ConfigError, naming close ones, if an entry matches nothing or what is no linear.

    A list holds names or their endings at a dot; a string is one regular expression for whole
    names.
    """
    if not targets:
        raise ConfigError("target_modules is empty: name linears, or leave it out for the family's")
    names = [name for name, _ in model.named_modules() if name]
    for target in [targets] if isinstance(targets, str) else targets:
        if isinstance(targets, str):
            try:
                matched = [name for name in names if re.fullmatch(target, name)]
            except re.error as error:
                raise ConfigError(
                    f"target_modules: {target!r} is no regular expression ({error}); a list holds "
                    "name endings"
                ) from None
        else:
            matched = [name for name in names if name == target or name.endswith(f".{target}")]
        if not matched:
            kind = " (one string is a regular expression for whole names, a list holds endings)"
            raise ConfigError(
                f"target_modules: {target!r} matches no module"
                f"{kind if isinstance(targets, str) else ''}; {_close(model, target)}"
            )
        for name in matched:
            if out_features(model.get_submodule(name)) is None:
                kind = type(model.get_submodule(name)).__name__
                raise ConfigError(
                    f"target_modules: {target!r} matches {name}, a {kind}, which is no linear "
                    f"layer; {_close(model, target)}"
                )


def check_trained_whole(model: nn.Module, names: list[str]) -> None:
    """Raises ConfigError for a `modules_to_save` that ends no module's name: PEFT ignores those."""
    known = [name for name, _ in model.named_modules() if name]
    for wanted in names:
        if not any(name.endswith(wanted) for name in known):
            last = sorted({name.rpartition(".")[2] for name in known})
            close = difflib.get_close_matches(wanted, last, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise ConfigError(f"modules_to_save: {wanted!r} matches no module{hint}")


def head_modules(model: nn.Module) -> list[str]:
    """Full names of the trained layers of a classification head; empty without such a head.

    Families of the table: the dense layer before the output layer (a pooler included, as in
    LoRETTA's published counts) and the output layer. Others: a child named like a head.
    """
    names = dict(model.named_modules())
    family = FAMILIES.get(getattr(getattr(model, "config", None), "model_type", ""))
    if family is not None and family.output in names:
        return [name for name in (family.dense, family.output) if name and name in names]
    return [name for name, _ in model.named_children() if name in _HEADS]


def classifier_dense(model: nn.Module) -> str:
    """Full name of the layer that a tensorized classifier replaces. Raises ConfigError if none."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    family = FAMILIES.get(model_type or "")
    heads = head_modules(model)
    if family is None or family.dense not in heads or family.output not in heads:
        raise ConfigError(
            f"tt_classifier=true needs a classification head with a dense layer before its output "
            f"layer; {type(model).__name__} of type {model_type!r} has none: set it to false"
        )
    assert family.dense is not None
    return family.dense


def norm_modules(model: nn.Module) -> list[str]:
    """Full names of every LayerNorm and RMSNorm that has parameters, by class or class name.

    One that another adapter trains already is named as it was before PEFT wrapped it.
    """
    return [
        name.removesuffix(".original_module")
        for name, module in model.named_modules()
        if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))
        and any(True for _ in module.parameters(recurse=False))
        and ".modules_to_save." not in name
    ]


def out_features(module: nn.Module) -> int | None:
    """Output width of a linear, quantised or transposed (Conv1D) ones included; else None."""
    if isinstance(module, BaseTunerLayer):
        module = module.get_base_layer()
    if isinstance(module, Conv1D):
        return int(module.nf)
    width = getattr(module, "out_features", None)
    return width if isinstance(width, int) else None


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _ending(name: str) -> str:
    """What follows the last number in a name: `attention.output.dense`."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[last + 1 :])


def _close(model: nn.Module, target: str) -> str:
    linears = [name for name, module in model.named_modules() if _is_linear(module)]
    endings = sorted(
        {_ending(name) for name in linears} | {name.split(".")[-1] for name in linears}
    )
    close = difflib.get_close_matches(target, endings, n=3, cutoff=0.4)
    return (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"linears here: {', '.join(endings[:16])}"
    )
