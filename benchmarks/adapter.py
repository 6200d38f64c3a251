"""One TT adapter against a dense adapter, PEFT's LoRA and tensorly-torch: forward and backward.

    python benchmarks/adapter.py

TTAdapter with bottleneck 64 and rank 5, its chains and the cores' gradients included, beside a
dense adapter of the same bottleneck and PEFT's LoRA r = 8 on query and value of the same layer.
LoRA's frozen linears hand out a stored output, so that only what LoRA adds is timed. GELU, biases,
float32; inputs get gradients. First it is checked that the adapter is its dense formula.

tensorly-torch's adapter is two of its FactorizedLinear around the same GELU, with the same cores:
a block tensor train of modes (8, 8, 12, 1, 1) × (1, 1, 1, 8, 8) is the tensor train of modes 8, 8,
12, 8, 8. "factorized" contracts the input with the cores, "reconstructed" builds the matrix first.
Both are checked to give the adapter's output and gradient. Without the package they are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from timing import Row, main, ratio, take_turns

BOTTLENECK, RANK, LORA_RANK = 64, 5, 8
TENSORLY = ("factorized", "reconstructed") if find_spec("tltorch") else ()
SIZES = [(768, 8, 128), (768, 32, 128), (4096, 8, 128), (4096, 32, 128)]


def measure(repeats: int) -> list[Row]:
    import torch

    torch.manual_seed(0)
    rows = []
    for features, batch, tokens in SIZES:
        check(features)
        x = torch.randn(batch, tokens, features)
        gradient = torch.randn(batch, tokens, features) / 1e3
        ours = tt_adapter(features)
        modules = {
            "tt": ours,
            "dense": dense_adapter(features),
            "lora": lora(features, x.shape),
            **{way: tensorly(ours, way) for way in TENSORLY},
        }
        times = take_turns(
            {name: one_pass(module, x, gradient) for name, module in modules.items()},
            max(repeats * 768 * 8 // (features * batch), 5),
        )
        what = f"TT adapter, {batch}×{tokens} tokens, d = {features}"
        rows.append(ratio(times, "tt", "dense", what, "dense adapter, bottleneck 64", 0.55))
        rows.append(ratio(times, "tt", "lora", what, "PEFT LoRA r=8 on q, v", 0.5))
        for way in TENSORLY:
            rows.append(ratio(times, "tt", way, what, f"tensorly-torch, {way}, same cores"))
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

    module, x = tt_adapter(features), torch.randn(2, 3, features, requires_grad=True)
    down, up = (
        to_dense(
            [getattr(module, f"{side}_core_{i}") for i in range(len(shape.modes))], shape.split
        )
        for side, shape in (("down", module.down), ("up", module.up))
    )
    hidden = F.gelu(x @ down + module.down_bias)
    expected = x + hidden @ up + module.up_bias
    (slope,) = torch.autograd.grad(expected.sum(), x)
    for adapter in (module, *(tensorly(module, way) for way in TENSORLY)):
        output = adapter(x)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            torch.autograd.grad(output.sum(), x), (slope,), rtol=1e-3, atol=1e-3
        )


def tt_adapter(features: int) -> Any:
    from fedtt_lightning.adapters import TTAdapter
    from fedtt_lightning.tensor_train import TTShape

    shapes = TTShape.choose(features, BOTTLENECK), TTShape.choose(BOTTLENECK, features)
    return TTAdapter(*shapes, RANK, activation="gelu", init="loretta").train()


def dense_adapter(features: int) -> Any:
    from torch import nn

    return residual(nn.Linear(features, BOTTLENECK), nn.GELU(), nn.Linear(BOTTLENECK, features))


def residual(*layers: Any) -> Any:
    from torch import nn

    class Residual(nn.Sequential):
        def forward(self, x: Any) -> Any:
            return x + super().forward(x)

    return Residual(*layers)


def tensorly(adapter: Any, way: str) -> Any:
    """An adapter of tensorly-torch's layers, computed in its `way`, with the cores of ours."""
    import torch
    from tltorch import FactorizedLinear
    from torch import nn

    layers = []
    for side, shape in (("down", adapter.down), ("up", adapter.up)):
        layer = FactorizedLinear(
            shape.in_modes + (1,) * len(shape.out_modes),
            (1,) * len(shape.in_modes) + shape.out_modes,
            factorization="blocktt",
            rank=(1, *[RANK] * (len(shape.modes) - 1), 1),
            implementation=way,
        )
        with torch.no_grad():
            for i, factor in enumerate(layer.weight.factors):
                factor.copy_(getattr(adapter, f"{side}_core_{i}").reshape(factor.shape))
            layer.bias.copy_(getattr(adapter, f"{side}_bias"))
        layers.append(layer)
    return residual(layers[0], nn.GELU(), layers[1])


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
