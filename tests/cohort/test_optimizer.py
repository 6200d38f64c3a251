"""Several clients stepped by one optimizer end where each would with an optimizer of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, AdamW, RMSprop
from torch.optim.lr_scheduler import ExponentialLR, LinearLR, OneCycleLR, SequentialLR, StepLR

from fedtt_lightning.cohort.optimizer import ClientOptimizers, Schedule
from fedtt_lightning.cohort.stacks import ClientStacks

STEPS, EPOCH = [5, 4, 2], 2  # of each client, and batches in its local epochs


def sequential(optimizer: Any) -> SequentialLR:
    parts = [LinearLR(optimizer, 0.1, total_iters=2), ExponentialLR(optimizer, 0.5)]
    return SequentialLR(optimizer, parts, milestones=[2])


CASES: dict[str, tuple[Callable[[Any], Any], list[tuple[Callable[[Any], Any], str]]]] = {
    "AdamW": (lambda p: AdamW(p, lr=0.1, weight_decay=0.1), []),
    "fused AdamW": (lambda p: AdamW(p, lr=0.1, fused=True), [(lambda o: StepLR(o, 1), "step")]),
    "tensor lr": (
        lambda p: AdamW(p, lr=torch.tensor(0.1), foreach=False),
        [(lambda o: StepLR(o, 1, 0.5), "step")],
    ),
    "SGD with momentum": (lambda p: SGD(p, lr=0.1, momentum=0.9), []),
    "one cycle": (
        lambda p: AdamW(p, lr=0.1),
        [(lambda o: OneCycleLR(o, max_lr=0.2, total_steps=9), "step")],
    ),
    "two schedulers": (
        lambda p: RMSprop(p, lr=0.1),
        [(sequential, "step"), (lambda o: ExponentialLR(o, 0.7), "epoch")],
    ),
    "Adagrad": (lambda p: Adagrad(p, lr=0.1), []),
}


def clip(optimizer: Any) -> None:
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 0.3)


def loss(parameters: Any, client: int, step: int) -> Tensor:
    a, b = parameters
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * client + step)).double()
    return (torch.tanh(x @ a) * b).square().mean() + b.sum()


def ends_epoch(client: int, step: int) -> bool:
    return (step + 1) % EPOCH == 0 or step + 1 == STEPS[client]


@pytest.mark.parametrize("interrupted", [False, True], ids=["whole", "interrupted"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_equals_optimizers_of_their_own(case: Any, interrupted: bool) -> None:
    make, makes = case
    torch.manual_seed(0)
    start = [nn.Parameter(torch.randn(3, 2).double()), nn.Parameter(torch.randn(2).double())]
    names = ("a", "b")

    def build() -> tuple[Any, ClientStacks, ClientOptimizers]:
        module = [nn.Parameter(p.detach().clone()) for p in start]
        groups = [{"params": module[:1]}, {"params": module[1:], "weight_decay": 0.2}]
        optimizer = make(groups)
        schedules = [Schedule(make(optimizer), interval) for make, interval in makes]
        stacks = ClientStacks(dict(zip(names, module, strict=True)), len(STEPS))
        clients = ClientOptimizers(
            optimizer, schedules, clip, lambda closure: closure(), lambda client: nullcontext()
        )
        own = [dict(zip(module, client.values(), strict=True)) for client in stacks.own]
        clients.begin(own)  # type: ignore[arg-type]
        return optimizer, stacks, clients

    optimizer, stacks, clients = build()
    settings, holds = repr(optimizer.state_dict()), optimizer.param_groups[0]["params"]
    for step in range(max(STEPS)):
        active = [client for client, steps in enumerate(STEPS) if step < steps]

        def closure(
            step: int = step, active: list[int] = active, stacks: ClientStacks = stacks
        ) -> None:
            leaves = stacks.leaves(names, len(active))
            parts = [loss([leaves[n][c] for n in names], c, step) for c in active]
            torch.stack(parts).mean().backward()
            stacks.hand_out([4] * len(active))

        clients.prepare([ends_epoch(client, step) for client in active])
        clients.step(closure)
        assert repr(optimizer.state_dict()) == settings
        assert optimizer.param_groups[0]["params"] is holds
        if interrupted and step == 2:
            saved, values = clients.clients_state(), stacks.state_dict()
            optimizer, stacks, clients = build()
            holds = optimizer.param_groups[0]["params"]
            clients.load_clients_state(saved)
            stacks.load_state_dict(values)

    for client, steps in enumerate(STEPS):
        mine = [nn.Parameter(p.detach().clone()) for p in start]
        alone = make([{"params": mine[:1]}, {"params": mine[1:], "weight_decay": 0.2}])
        schedules = [(make(alone), interval) for make, interval in makes]
        for step in range(steps):
            alone.zero_grad()
            loss(mine, client, step).backward()
            clip(alone)
            alone.step()
            for scheduler, interval in schedules:
                if interval == "step" or ends_epoch(client, step):
                    scheduler.step()
        for name, expected in zip(names, mine, strict=True):
            actual = stacks.own[client][name]
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_unequal_clients_are_those_of_their_own_means() -> None:
    weight = nn.Parameter(torch.randn(3).double())
    stacks = ClientStacks({"w": weight}, 3)
    sizes, x = [3, 1, 2], torch.randn(6, 3).double()
    leaf = stacks.leaves(("w",), 3)["w"]
    rows = torch.cat([leaf[c].expand(n, -1) for c, n in enumerate(sizes)])
    (rows * x).sum(1).tanh().mean().backward()
    stacks.hand_out(sizes)
    for own, part in zip(stacks.own, x.split(sizes), strict=True):
        (expected,) = torch.autograd.grad((part @ weight).tanh().mean(), weight)
        torch.testing.assert_close(own["w"].grad, expected, rtol=1e-13, atol=1e-13)
    stacks.leaves(("w",), 3)
    stacks.hand_out(sizes)
    assert all(own["w"].grad is None for own in stacks.own), "this step has no gradient"
