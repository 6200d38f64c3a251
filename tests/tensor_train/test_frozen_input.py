"""An adapter after a frozen linear keeps nothing of its own, and its gradients do not change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.checkpoint import checkpoint

from fedtt_lightning.tensor_train import FrozenInput, TTShape, init_adapter_, tt_adapter

DOWN, UP = TTShape.choose(24, 8), TTShape.choose(8, 24)
INPUTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": lambda z, _: F.gelu(z),
    "tanh gelu": lambda z, _: F.gelu(z, approximate="tanh"),
    "relu": lambda z, _: torch.relu(z),
    "gated": lambda z, gate: F.silu(gate) * z,
    "masked": lambda z, gate: z * gate.detach(),
    "unknown": lambda z, _: torch.sin(z),
}


class Other(Tensor):
    """Values kept in another form, as quantised weights are."""


class Block:
    """A linear from `inner` to 24 features, and an adapter of rank 3 after it."""

    def __init__(
        self, inner: int = 96, bias: bool = True, dtype: torch.dtype = torch.float64
    ) -> None:
        torch.manual_seed(4)
        self.linear = nn.Linear(inner, 24, bias=bias, dtype=dtype).requires_grad_(False)
        cores = torch.float64 if dtype == torch.float64 else torch.float32
        self.down = [torch.zeros(s, dtype=cores) for s in DOWN.core_shapes(3)]
        self.up = [torch.zeros(s, dtype=cores) for s in UP.core_shapes(3)]
        self.biases = [torch.zeros(n, dtype=cores) for n in (8, 24)]
        init_adapter_(self.down, self.up, DOWN.split, UP.split, *self.biases, "loretta")
        for p in self.parameters:
            p.requires_grad_()
        self.z, self.gate = torch.randn(2, 6, 5, inner, dtype=torch.float64).to(dtype)
        self.z.requires_grad_()
        self.gate.requires_grad_()

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.down, *self.up, *self.biases]

    def adapt(self, x: Tensor, parameters: list[Tensor], **options: object) -> Tensor:
        cores, biases = parameters[:-2], parameters[-2:]
        down, up = cores[: len(self.down)], cores[len(self.down) :]
        return tt_adapter(x, down, up, DOWN.split, UP.split, *biases, "gelu", **options)  # type: ignore[arg-type]

    def gradients(self, kind: str, without_x: bool, clients: int = 0) -> list[Tensor]:
        """Return the gradients of z and of the parameters, those of `clients` if there are."""
        u = INPUTS[kind](self.z, self.gate)
        parameters = self.parameters
        if clients:
            shifted = [p.detach() + 0.1 * torch.arange(clients).view(-1, *(1,) * p.dim())
                       for p in parameters]  # fmt: skip
            parameters = [p.requires_grad_() for p in shifted]
        source = FrozenInput.of(self.linear, u, recompute=True) if without_x else None
        y = self.adapt(self.linear(u), parameters, source=source)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y.dtype)
        return list(torch.autograd.grad((y * weight).sum(), [self.z, *parameters]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("inner", [96, 16])
@pytest.mark.parametrize("clients", [0, 3])
def test_same_gradients(kind: str, inner: int, bias: bool, clients: int) -> None:
    block = Block(inner, bias)
    expected = block.gradients(kind, False, clients)
    assert all(gradient.abs().max() > 1e-3 for gradient in expected)
    for gradient, reference in zip(block.gradients(kind, True, clients), expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 3e-6), (torch.bfloat16, 3e-2)])
def test_precision(dtype: torch.dtype, bound: float) -> None:
    exact, block = Block(), Block(dtype=dtype)
    with torch.no_grad():
        for mine, others in zip(exact.parameters, block.parameters, strict=True):
            mine.copy_(others)
        exact.linear.load_state_dict(block.linear.state_dict())
        exact.z.copy_(block.z)
    for gradient, reference in zip(
        block.gradients("gelu", True), exact.gradients("gelu", False), strict=True
    ):
        assert (gradient.double() - reference).norm() < bound * reference.norm()


@pytest.mark.parametrize("kind", ["gelu", "gated", "unknown"])
def test_same_gradients_of_each_example(kind: str) -> None:
    block = Block(inner=20)
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for without_x, gradients in found.items():
        u = INPUTS[kind](block.z, block.gate)
        source = FrozenInput.of(block.linear, u, recompute=True) if without_x else None
        y = block.adapt(
            block.linear(u), block.parameters, on_examples=gradients.extend, source=source
        )
        (y * y.detach()).sum().backward()
    assert len(found[True]) == len(block.parameters)
    for gradient, reference in zip(found[True], found[False], strict=True):
        assert len(gradient) == len(block.z)
        torch.testing.assert_close(gradient, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("kind", "inner", "recompute", "free"),
    [
        ("gelu", 96, True, True),
        ("relu", 96, True, True),
        ("gated", 96, True, True),
        ("masked", 96, True, False),  # z is not kept for that product's backward
        ("unknown", 96, True, False),
        ("gelu", 96, False, False),
        ("unknown", 16, False, True),  # no wider than x: u itself
    ],
)
def test_x_is_not_kept(kind: str, inner: int, recompute: bool, free: bool) -> None:
    block = Block(inner)
    u = INPUTS[kind](block.z, block.gate)
    x = block.linear(u)
    y = block.adapt(x, block.parameters, source=FrozenInput.of(block.linear, u, recompute))
    kept = {t.untyped_storage().data_ptr() for t in y.grad_fn.saved_tensors if t is not None}  # type: ignore[union-attr]
    assert (x.untyped_storage().data_ptr() not in kept) == free


def test_gradient_checkpointing_changes_nothing() -> None:
    block = Block()

    def layer(z: Tensor) -> Tensor:
        u = F.gelu(z)
        source = FrozenInput.of(block.linear, u, recompute=True)
        return block.adapt(block.linear(u), block.parameters, source=source)

    wanted = [block.z, *block.parameters]
    expected = torch.autograd.grad(layer(block.z).square().sum(), wanted)
    again = checkpoint(layer, block.z, use_reentrant=False)
    for gradient, reference in zip(
        torch.autograd.grad(again.square().sum(), wanted), expected, strict=True
    ):
        torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-12)


def test_keeps_x_where_the_linear_is_not_plain_and_frozen() -> None:
    block = Block(inner=16)
    u = INPUTS["gelu"](block.z, block.gate)
    assert FrozenInput.of(block.linear, u) is not None
    with torch.no_grad():
        assert FrozenInput.of(block.linear, u) is None
    handle = block.linear.register_forward_hook(lambda *_: None)
    assert FrozenInput.of(block.linear, u) is None
    handle.remove()
    handle = register_module_forward_hook(lambda *_: None)
    assert FrozenInput.of(block.linear, u) is None
    handle.remove()
    forward = block.linear.forward
    block.linear.forward = lambda input: 2 * forward(input)  # type: ignore[method-assign]
    assert FrozenInput.of(block.linear, u) is None
    del block.linear.forward
    assert FrozenInput.of(block.linear, u) is not None
    plain = block.linear.weight
    other = plain.detach().as_subclass(Other)
    block.linear.weight = nn.Parameter(other, requires_grad=False)
    assert FrozenInput.of(block.linear, u) is None
    block.linear.weight = plain

    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    assert FrozenInput.of(Scaled(16, 24).requires_grad_(False), u) is None
    assert block.linear.bias is not None
    block.linear.bias.requires_grad_(True)
    assert FrozenInput.of(block.linear, u) is None


def test_stand_ins_of_saved_tensors_are_left_alone() -> None:
    block = Block()
    with torch.autograd.graph.save_on_cpu():
        u = F.gelu(block.z)
        assert FrozenInput.of(block.linear, u, recompute=True) is None
    assert FrozenInput.of(block.linear, F.gelu(block.z), recompute=True) is not None
