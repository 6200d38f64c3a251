"""Server optimizers equal their formulas, round by round, and forget nothing over a resume."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from fedtt_lightning.callbacks import FederatedRounds
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import AdapterSchema, AdapterState, ServerOptimizer
from fedtt_lightning.federation.server_optimizers import (
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedYogi,
    TorchServer,
)

NAMES = ("a", "b", "c")
SHAPES = {"a": (3, 2), "b": (5,), "c": (2, 2)}
DTYPES = {"a": torch.float64, "b": torch.float64, "c": torch.float32}
SCHEMA = AdapterSchema.of({n: torch.zeros(SHAPES[n], dtype=DTYPES[n]) for n in NAMES})
Trained = Callable[[int], tuple[str, ...]]
SERVERS: dict[str, Callable[[], ServerOptimizer]] = {
    "FedAvgM": lambda: FedAvgM(0.7, 0.9),
    "FedAdagrad": lambda: FedAdagrad(0.1, 0.3, 1e-2),
    "FedAdam": lambda: FedAdam(0.1, 0.9, 0.99, 1e-3),
    "FedYogi": lambda: FedYogi(0.1, 0.8, 0.95, 1e-2),
    "Adam": lambda: TorchServer(lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True)),
    "AdamW": lambda: TorchServer(lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.2)),
    "RMSprop": lambda: TorchServer(lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5)),
    "ASGD": lambda: TorchServer(lambda p: torch.optim.ASGD(p, lr=0.1)),
    "SGD": lambda: TorchServer(lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True)),
}


def everything(round: int) -> tuple[str, ...]:
    return NAMES


def rotating(round: int) -> tuple[str, ...]:
    return (NAMES[round % 3], "c") if round % 3 < 2 else ("c",)


def updates(rounds: int, seed: int = 0) -> list[dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    return [
        {n: torch.randn(SHAPES[n], generator=rng, dtype=torch.float64) * 0.1 for n in NAMES}
        for _ in range(rounds)
    ]


def first() -> AdapterState:
    rng = torch.Generator().manual_seed(9)
    tensors = {
        name: torch.randn(SHAPES[name], generator=rng, dtype=torch.float64).to(DTYPES[name])
        for name in NAMES
    }
    return AdapterState.capture(tensors, AdapterSchema.of(tensors))


def as_update(tensors: dict[str, Tensor], schema: AdapterSchema) -> AdapterState:
    return AdapterState.capture(tensors, schema)


def run(
    server: ServerOptimizer,
    deltas: list[dict[str, Tensor]],
    trained: Trained = everything,
    adapter: AdapterState | None = None,
    start: int = 0,
) -> AdapterState:
    adapter = adapter or first()
    for round, delta in enumerate(deltas, start):
        schema = adapter.schema.select(trained(round))
        old = adapter.select(schema).clone()
        kept = old.clone()
        new = server.step(old, as_update(delta, schema))
        assert all(torch.equal(old.buffers[k], kept.buffers[k]) for k in kept.buffers)
        adapter = adapter.clone()
        new.copy_into(adapter.tensors())
    return adapter


def reference(
    name: str, options: tuple[float, ...], deltas: list[dict[str, Tensor]], trained: Trained
) -> dict[str, np.ndarray]:
    """The formulas with NumPy, one tensor after the other."""
    result = {}
    for key, value in first().tensors().items():
        x = value.numpy()
        m, v = np.zeros(x.shape), np.zeros(x.shape)
        if name != "FedAvgM":
            v = np.full(x.shape, options[-1] ** 2)
        for round, delta in enumerate(deltas):
            if key not in trained(round):
                continue
            d = delta[key].numpy()
            if name == "FedAvgM":
                lr, momentum = options
                m = momentum * m + d
                step = lr * m
            else:
                lr, beta1, beta2, tau = options
                m = beta1 * m + (1 - beta1) * d
                if name == "FedAdagrad":
                    v = v + d**2
                elif name == "FedAdam":
                    v = beta2 * v + (1 - beta2) * d**2
                else:
                    v = v - (1 - beta2) * d**2 * np.sign(v - d**2)
                step = lr * m / (np.sqrt(v) + tau)
            x = (x.astype(np.float64) + step).astype(x.dtype)
        result[key] = x
    return result


@pytest.mark.parametrize("trained", [everything, rotating])
@pytest.mark.parametrize(
    ("name", "server", "options"),
    [
        ("FedAvgM", FedAvgM(), (1.0, 0.9)),
        ("FedAvgM", FedAvgM(0.3, 0.0), (0.3, 0.0)),
        ("FedAdagrad", FedAdagrad(), (1e-2, 0.0, 0.0, 1e-3)),
        ("FedAdam", FedAdam(), (1e-2, 0.9, 0.99, 1e-3)),
        ("FedAdam", FedAdam(0.3, 0.5, 0.6, 0.1), (0.3, 0.5, 0.6, 0.1)),
        ("FedYogi", FedYogi(), (1e-2, 0.9, 0.99, 1e-3)),
        ("FedYogi", FedYogi(0.3, 0.5, 0.6, 0.1), (0.3, 0.5, 0.6, 0.1)),
    ],
)
def test_equals_its_formula(
    name: str, server: ServerOptimizer, options: tuple[float, ...], trained: Trained
) -> None:
    server.check(SCHEMA)
    server.load_state_dict({})
    deltas = updates(8)
    expected = reference(name, options, deltas, trained)
    for key, value in run(server, deltas, trained).tensors().items():
        tolerance = 1e-12 if value.dtype == torch.float64 else 1e-6
        np.testing.assert_allclose(value.numpy(), expected[key], rtol=0, atol=tolerance)


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.5, 0.9), torch.optim.Adam])
def test_torch_optimizers_are_torch_s_own(make: Any) -> None:
    """One live optimizer over float64 parameters, as anybody would write it."""
    deltas = updates(6)
    params = {n: torch.nn.Parameter(t.double()) for n, t in first().tensors().items() if n != "c"}
    optimizer = make(list(params.values()))
    for delta in deltas:
        for name, param in params.items():
            param.grad = -delta[name]
        optimizer.step()
    actual = run(TorchServer(make), deltas).tensors()
    for name, param in params.items():
        assert torch.equal(actual[name], param.detach())


def test_momentum_is_sgd_s() -> None:
    sgd = TorchServer(lambda params: torch.optim.SGD(params, lr=0.7, momentum=0.9))
    ours, theirs = run(SERVERS["FedAvgM"](), updates(5)), run(sgd, updates(5))
    assert all(torch.equal(ours.buffers[k], theirs.buffers[k]) for k in ours.buffers)


@pytest.mark.parametrize("make", SERVERS.values(), ids=SERVERS.keys())
@pytest.mark.parametrize("trained", [everything, rotating])
def test_goes_on_exactly_from_its_state(
    make: Callable[[], ServerOptimizer], trained: Trained
) -> None:
    deltas = updates(9)
    whole = run(make(), deltas, trained)
    server = make()
    server.check(SCHEMA)
    half = run(server, deltas[:4], trained)
    file = io.BytesIO()
    torch.save(server.state_dict(), file)
    file.seek(0)
    run(server, deltas[4:], trained, half, 4)  # must not reach into what was saved
    other = make()
    other.load_state_dict(torch.load(file, weights_only=True))
    resumed = run(other, deltas[4:], trained, half, 4)
    assert all(torch.equal(whole.buffers[k], resumed.buffers[k]) for k in whole.buffers)
    forgetful = run(make(), deltas[4:], trained, half, 4)
    assert not all(torch.equal(whole.buffers[k], forgetful.buffers[k]) for k in whole.buffers)


def test_what_an_optimizer_keeps_in_its_group_is_remembered() -> None:
    class Counting(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            (group,) = self.param_groups
            group["k"] = group.get("k", 0) + 1
            for param in group["params"]:
                param.data.add_(group["k"] * torch.ones_like(param))

    adapter = run(TorchServer(lambda p: Counting(p, lr=1.0)), updates(3))
    difference = adapter.minus(first()).tensors()["a"]
    torch.testing.assert_close(difference, torch.full((3, 2), 6.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (FedAvgM(lr=0.0), r"server\.lr is 0\.0, but must be > 0"),
        (FedAvgM(momentum=1.0), r"server\.momentum is 1\.0, but must lie from 0 to below 1"),
        (FedAdam(lr=float("nan")), r"server\.lr is nan"),
        (FedAdam(beta2=1.0), r"server\.beta2"),
        (FedYogi(beta1=-0.1), r"server\.beta1"),
        (FedAdagrad(tau=0.0), r"server\.tau"),
        (TorchServer(lambda p: torch.optim.Adam(p, lr=-1.0)), "Invalid learning rate: -1.0"),
        (TorchServer(torch.optim.LBFGS), r"server\.optimizer cannot be used:.*closure"),
    ],
)
def test_bad_settings(server: ServerOptimizer, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        server.check(SCHEMA)


def test_an_optimizer_that_rejects_the_tensors_is_found_before_training() -> None:
    """Muon, for one, takes matrices only: the shapes that travel are tried, not some shape."""
    server = TorchServer(torch.optim.Muon)
    matrix = AdapterState.capture({"a": torch.zeros(2, 3)}).schema
    server.check(matrix)
    core = AdapterState.capture({"a": torch.zeros(1, 4, 3)}).schema
    with pytest.raises(ConfigError, match=r"server\.optimizer cannot be used:.*2D"):
        server.check(core)
    with pytest.raises(FederationError, match=r"federation\.server cannot take its step"):
        run(server, updates(1))


def test_names_the_class_of_its_optimizer() -> None:
    """By which a resumed run with another one is refused."""
    assert repr(TorchServer(lambda p: torch.optim.Adam(p))) == "TorchServer(Adam)"


def test_is_named_in_yaml() -> None:
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(FederatedRounds, "federation")
    text = """
    federation:
      server:
        class_path: fedtt_lightning.federation.TorchServer
        init_args:
          optimizer:
            class_path: torch.optim.RMSprop
            init_args: {lr: 0.25, momentum: 0.5}
    """
    config = parser.parse_string(text)
    again = parser.parse_string(parser.dump(config))  # what a run saves beside its logs
    server = parser.instantiate(again).federation.server
    assert isinstance(server, TorchServer)
    server.check(SCHEMA)
    twin = TorchServer(lambda p: torch.optim.RMSprop(p, lr=0.25, momentum=0.5))
    ours, theirs = run(server, updates(3)), run(twin, updates(3))
    assert all(torch.equal(ours.buffers[k], theirs.buffers[k]) for k in ours.buffers)
    short = parser.parse_args(["--federation.server=FedYogi", "--federation.server.lr=0.5"])
    assert repr(parser.instantiate(short).federation.server).startswith("FedYogi(beta1=")
