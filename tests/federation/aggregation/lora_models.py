"""A small model with PEFT's LoRA on every kind of layer, and random states of it."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from fedtt_lightning.federation import AdapterState


class Net(nn.Module):
    """Tokens (n, 8) to 3 classes: embedding, convolution, two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 9)
        self.conv = nn.Conv2d(1, 6, (3, 3))
        self.linear = nn.Linear(6, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        image = self.conv(self.embed(tokens)[:, None])
        return self.head(torch.tanh(self.linear(torch.tanh(image).mean((2, 3)))))


TARGETS = ("embed", "conv", "linear")


def lora_net(rank: int, scaling: float = 2.0, seed: int = 0) -> nn.Module:
    """The net in float64, LoRA of the rank on all but its head, which trains whole."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=scaling * rank,  # type: ignore[arg-type]
        target_modules=list(TARGETS),
        modules_to_save=["head"],
    )
    return get_peft_model(Net(), config).double()  # type: ignore[arg-type]


def trainable(net: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def pair(tensors: dict[str, Tensor], target: str) -> tuple[Tensor, Tensor]:
    """A (r x in) and B (out x r) of a target, as matrices in float64."""
    (a,) = (v for n, v in tensors.items() if target in n and "_A." in n)
    (b,) = (v for n, v in tensors.items() if target in n and "_B." in n)
    return a.double().flatten(1), b.double().flatten(1)


def product(tensors: dict[str, Tensor], target: str) -> Tensor:
    a, b = pair(tensors, target)
    return b @ a


def random_state(like: AdapterState, seed: int, rank: int) -> AdapterState:
    """Random values, of A the first `rank` rows and of B the first columns."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, tensor in like.tensors().items():
        drawn[name] = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
        if "_A." in name:
            drawn[name][rank:] = 0
        elif "_B." in name:
            drawn[name][:, rank:] = 0
    return AdapterState.capture(drawn, like.schema)
