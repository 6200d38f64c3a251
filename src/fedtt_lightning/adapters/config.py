"""The configuration of TT adapters."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any

from peft import PeftConfig, PeftType

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.tensor_train import ACTIVATIONS, INITS

from .peft_method import NAME


@dataclass
class TTAdapterConfig(PeftConfig):
    """Two tensor-train adapters a block (FedTT, arXiv 2410.13097; LoRETTA, arXiv 2402.11417).

    Each adapter follows a frozen linear: y = h + scaling * (act(h L R + b) L' R' + b'), h being the
    linear's output. With `tensorized=False` L R and L' R' are plain matrices: dense adapters
    (arXiv 1902.00751) in the same places, otherwise alike. A classification head, if the model has
    one, is trained and saved with them.
    Raises ConfigError for values that no model could take; what depends on the model (ranks, modes,
    targets) is checked by `get_peft_model`. That call writes the resolved `target_modules` and, for
    PEFT's task classes, entries in `modules_to_save` into the config, as PEFT's own methods do.

    Examples:
        >>> from peft import get_peft_model
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
        >>> bert = BertModel(BertConfig(vocab_size=50, num_attention_heads=2, **sizes))
        >>> model = get_peft_model(bert, TTAdapterConfig(rank=4, bottleneck=16))
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
        2112
    """

    tensorized: bool = field(
        default=True,
        metadata={
            "help": "Tensor trains; false for dense matrices in the same places (dense adapter)."
        },
    )
    rank: int = field(default=5, metadata={"help": "TT rank of the adapters."})
    bottleneck: int = field(default=64, metadata={"help": "Width inside the adapters."})
    activation: str = field(
        default="relu", metadata={"help": "relu, gelu, silu or tanh, inside the adapters."}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "Dropout on the activation inside the adapters."}
    )
    scaling: float = field(default=1.0, metadata={"help": "Factor of the adapters' update."})
    # Not named `bias`: PEFT reads a field of that name as which biases of the base model train.
    use_bias: bool = field(default=True, metadata={"help": "Biases after both TT layers."})
    init: str = field(
        default="orthonormal",
        metadata={
            "help": "Start: orthonormal or gaussian (both the identity), or loretta (the published "
            "Gaussian, not the identity)."
        },
    )
    target_modules: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Linears that an adapter follows: names or name endings, or one regular "
            "expression for whole names. Default: two a block, by model family."
        },
    )
    down_modes: list[int] | None = field(
        default=None,
        metadata={"help": "Mode sizes of (hidden x bottleneck), e.g. [8, 8, 12, 8, 8]."},
    )
    up_modes: list[int] | None = field(
        default=None, metadata={"help": "Mode sizes of (bottleneck x hidden)."}
    )
    tt_classifier: bool = field(
        default=False,
        metadata={
            "help": "Replace the dense layer of the classification head by a fresh TT layer; "
            "the output layer is trained as it is."
        },
    )
    classifier_modes: list[int] | None = field(
        default=None, metadata={"help": "Mode sizes of the tensorized classifier."}
    )
    classifier_rank: int | None = field(
        default=None, metadata={"help": "TT rank of the tensorized classifier; default: `rank`."}
    )
    recompute_input: bool = field(
        default=False,
        metadata={
            "help": "Compute what enters a block's last linear again in backward, and keep no "
            "input of the adapter after it: less memory for some more time, the same gradients."
        },
    )
    train_layernorms: bool = field(
        default=False,
        metadata={
            "help": "Train every LayerNorm and RMSNorm of the model, the embeddings' included."
        },
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Further modules trained and saved whole. Heads need not be named."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(NAME)  # transformers reads its `value`
        self._positive("rank", self.rank)
        self._positive("bottleneck", self.bottleneck)
        if self.classifier_rank is not None:
            self._positive("classifier_rank", self.classifier_rank)
        self._one_of("activation", self.activation, list(ACTIVATIONS))
        self._one_of("init", self.init, list(INITS))
        for key in ("dropout", "scaling"):
            value = getattr(self, key)
            if not isinstance(value, (int, float)) or not isfinite(value):
                raise ConfigError(f"{key}={value!r} must be a finite number")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout={self.dropout} is outside [0, 1)")
        if not self.tensorized:
            self._check_dense()
        if not self.tt_classifier:
            for key in ("classifier_modes", "classifier_rank"):
                if getattr(self, key) is not None:
                    raise ConfigError(f"{key} has no effect without tt_classifier=true")

    def _check_dense(self) -> None:
        """Refuse what describes tensor trains: what a dense adapter would silently ignore."""
        if self.tt_classifier:
            raise ConfigError(
                "tt_classifier=true makes no sense with tensorized=false: set it to false, the "
                "dense head is trained as it is"
            )
        defaults = {f.name: f.default for f in fields(self)}
        for key in ("rank", "init", "down_modes", "up_modes", "recompute_input"):
            if getattr(self, key) != defaults[key]:
                raise ConfigError(f"{key} has no effect with tensorized=false: leave it out")

    @staticmethod
    def _positive(key: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{key}={value!r} must be a positive integer")

    @staticmethod
    def _one_of(key: str, value: str, choices: list[str]) -> None:
        if value not in choices:
            raise ConfigError(f"{key}={value!r} is not one of {', '.join(choices)}")
