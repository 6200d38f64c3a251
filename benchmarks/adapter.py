"""One TT adapter against a dense adapter and against PEFT's LoRA: time of forward and backward.

    python benchmarks/adapter.py

TTAdapter with bottleneck 64 and rank 5, its chains and the cores' gradients included, beside a
dense adapter of the same bottleneck and PEFT's LoRA r = 8 on query and value of the same layer.
LoRA's frozen linears hand out a stored output, so that only what LoRA adds is timed. GELU, biases,
float32; inputs get gradients. First it is checked that the adapter is its dense formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timing import Row, main, ratio, take_turns

BOTTLENECK, RANK, LORA_RANK = 64, 5, 8
SIZES = [(768, 8, 128), (768, 32, 128), (4096, 8, 128), (4096, 32, 128)]


def measure(repeats: int) -> list[Row]:
    import torch

    torch.manual_seed(0)
    rows = []
    for features, batch, tokens in SIZES:
        check(features)
        x = torch.randn(batch, tokens, features)
        gradient = torch.randn(batch, tokens, features) / 1e3
        times = take_turns(
            {
                "tt": one_pass(tt_adapter(features), x, gradient),
                "dense": one_pass(dense_adapter(features), x, gradient),
                "lora": one_pass(lora(features, x.shape), x, gradient),
            },
            max(repeats * 768 * 8 // (features * batch), 5),
        )
        what = f"TT adapter, {batch}×{tokens} tokens, d = {features}"
        rows.append(ratio(times, "tt", "dense", what, "dense adapter, bottleneck 64", 0.55))
        rows.append(ratio(times, "tt", "lora", what, "PEFT LoRA r=8 on q, v", 0.5))
    return rows


def one_pass(module: Any, x: Any, gradient: Any) -> Callable[[], None]:
    """Return a call of forward and backward, gradients made anew each time."""
    inputs = x.clone().requires_grad_()

    def run() -> None:
        inputs.grad = None
        for parameter in module.parameters():
            parameter.grad = None
        module(inputs).backward(gradient)

    return run


def check(features: int) -> None:
    """Raise AssertionError unless the adapter is what its matrices say."""
    import torch
    import torch.nn.functional as F

    from fedtt_lightning.tensor_train import to_dense

    module, x = tt_adapter(features), torch.randn(2, 3, features)
    down, up = (
        to_dense(
            [getattr(module, f"{side}_core_{i}") for i in range(len(shape.modes))], shape.split
        )
        for side, shape in (("down", module.down), ("up", module.up))
    )
    hidden = F.gelu(x @ down + module.down_bias)
    torch.testing.assert_close(module(x), x + hidden @ up + module.up_bias, rtol=1e-4, atol=1e-4)


def tt_adapter(features: int) -> Any:
    from fedtt_lightning.adapters import TTAdapter
    from fedtt_lightning.tensor_train import TTShape

    shapes = TTShape.choose(features, BOTTLENECK), TTShape.choose(BOTTLENECK, features)
    return TTAdapter(*shapes, RANK, activation="gelu", init="loretta").train()


def dense_adapter(features: int) -> Any:
    from torch import nn

    class Residual(nn.Sequential):
        def forward(self, x: Any) -> Any:
            return x + super().forward(x)

    return Residual(nn.Linear(features, BOTTLENECK), nn.GELU(), nn.Linear(BOTTLENECK, features))


def lora(features: int, shape: Any) -> Any:
    """PEFT's LoRA of two linears whose own outputs cost nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn

    class Stored(nn.Linear):
        def __init__(self) -> None:
            super().__init__(features, features)
            self.output = torch.zeros(shape)

        def forward(self, _: Any) -> Any:
            return self.output

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.value = Stored(), Stored()

    class Both(nn.Module):
        """Backward through both outputs, without a sum that is not LoRA's."""

        def __init__(self) -> None:
            super().__init__()
            config = LoraConfig(r=LORA_RANK, target_modules=["query", "value"])
            self.layer = get_peft_model(Layer(), config).base_model.model.train()

        def forward(self, x: Any) -> Any:
            return _Pair(self.layer.query(x), self.layer.value(x))

    class _Pair:
        def __init__(self, query: Any, value: Any) -> None:
            self.outputs = query, value

        def backward(self, gradient: Any) -> None:
            torch.autograd.backward(self.outputs, [gradient, gradient])

    return Both()


if __name__ == "__main__":
    main(__doc__, measure, repeats=40)
