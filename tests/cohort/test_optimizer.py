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

from fedtt_lightning.cohort.optimizer import ClientOptimizers, Schedule, steps_together
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


class Run:
    """Clients in stacks, stepped one by one or, where the optimizer allows it, together."""

    def __init__(self, case: Any, start: list[Tensor], together: bool) -> None:
        make, makes = case
        self.module = [nn.Parameter(p.detach().clone()) for p in start]
        groups = [{"params": self.module[:1]}, {"params": self.module[1:], "weight_decay": 0.2}]
        self.optimizer = make(groups)
        schedules = [Schedule(make(self.optimizer), interval) for make, interval in makes]
        assert steps_together(self.optimizer, schedules) or not together
        self.together, self.active = together, 0
        self.stacks = ClientStacks(dict(zip(NAMES, self.module, strict=True)), len(STEPS))
        self.clients = ClientOptimizers(
            self.optimizer, schedules, self.clip, lambda closure: closure(), lambda _: nullcontext()
        )
        self.settings = repr(self.optimizer.state_dict())

    def begin(self, step: int) -> None:
        self.active = sum(step < steps for steps in STEPS)
        leaves = [self.stacks.leaves(NAMES, self.active)] if self.together else self.stacks.own
        self.clients.begin([dict(zip(self.module, c.values(), strict=True)) for c in leaves])

    def clip(self, optimizer: Any) -> None:
        self.stacks.clip(0.3, by_value=False) if self.together else clip(optimizer)

    def step(self, step: int) -> None:
        before = self.stacks.leaves(NAMES, self.active)
        self.active = sum(step < steps for steps in STEPS)
        leaves = self.stacks.leaves(NAMES, self.active)
        if self.together and leaves is not before:
            self.clients.keep({before[name]: leaves[name] for name in NAMES})

        def closure() -> None:
            parts = [loss([leaves[n][c] for n in NAMES], c, step) for c in range(self.active)]
            torch.stack(parts).mean().backward()
            self.stacks.scale([4] * self.active)
            self.stacks.hand_out()

        ends = [ends_epoch(client, step) for client in range(self.active)]
        self.clients.prepare([False] if self.together else ends)
        self.clients.step(closure)
        assert repr(self.optimizer.state_dict()) == self.settings
        assert self.optimizer.param_groups[0]["params"] == self.module[:1]


NAMES = ("a", "b")
TOGETHER = [name for name in CASES if name not in ("two schedulers", "Adagrad")]


@pytest.mark.parametrize("interrupted", [False, True], ids=["whole", "interrupted"])
@pytest.mark.parametrize(
    ("case", "together"), [*((c, False) for c in CASES), *((c, True) for c in TOGETHER)]
)
def test_equals_optimizers_of_their_own(case: str, together: bool, interrupted: bool) -> None:
    make, makes = CASES[case]
    torch.manual_seed(0)
    start: Any = [torch.randn(3, 2).double(), torch.randn(2).double()]
    run = Run(CASES[case], start, together)
    run.begin(0)
    for step in range(max(STEPS)):
        run.step(step)
        if interrupted and step == 2:
            saved, values = run.clients.clients_state(), run.stacks.state_dict()
            run = Run(CASES[case], start, together)
            run.begin(step)
            run.clients.load_clients_state(saved)
            run.stacks.load_state_dict(values)

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
        for name, expected in zip(NAMES, mine, strict=True):
            actual = run.stacks.own[client][name]
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_unequal_clients_are_those_of_their_own_means() -> None:
    weight = nn.Parameter(torch.randn(3).double())
    stacks = ClientStacks({"w": weight}, 3)
    sizes, x = [3, 1, 2], torch.randn(6, 3).double()
    leaf = stacks.leaves(("w",), 3)["w"]
    rows = torch.cat([leaf[c].expand(n, -1) for c, n in enumerate(sizes)])
    (rows * x).sum(1).tanh().mean().backward()
    stacks.scale(sizes)
    stacks.hand_out()
    for own, part in zip(stacks.own, x.split(sizes), strict=True):
        (expected,) = torch.autograd.grad((part @ weight).tanh().mean(), weight)
        torch.testing.assert_close(own["w"].grad, expected, rtol=1e-13, atol=1e-13)
    stacks.leaves(("w",), 3)
    stacks.scale(sizes)
    stacks.hand_out()
    assert all(own["w"].grad is None for own in stacks.own), "this step has no gradient"


def test_clips_each_client_as_torch_clips_a_model() -> None:
    stacks = ClientStacks({"a": torch.zeros(3, 2), "b": torch.zeros(2)}, 3)
    for by_value in (False, True):
        leaves = stacks.leaves(("a", "b"), 3)
        for leaf in leaves.values():
            leaf.grad = torch.randn(leaf.shape) * torch.tensor([0.01, 1, 5]).view(
                3, *[1] * (leaf.dim() - 1)
            )
        models = [[nn.Parameter(leaf[c]) for leaf in leaves.values()] for c in range(3)]
        for client, model in enumerate(models):
            for parameter, leaf in zip(model, leaves.values(), strict=True):
                parameter.grad = leaf.grad[client].clone()
            if by_value:
                nn.utils.clip_grad_value_(model, 0.5)
            else:
                nn.utils.clip_grad_norm_(model, 0.5)
        stacks.clip(0.5, by_value)
        for i, leaf in enumerate(leaves.values()):
            torch.testing.assert_close(leaf.grad, torch.stack([m[i].grad for m in models]))


def test_what_is_not_stepped_together() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    adagrad, adamw = Adagrad([parameter]), AdamW([parameter])
    assert not steps_together(adagrad, []) and steps_together(adamw, [])
    assert not steps_together(adamw, [Schedule(StepLR(adamw, 1), "epoch")])

    class Own(AdamW):
        """Whatever it does, it may look at whole tensors."""

    assert not steps_together(Own([parameter]), [])
