"""DP-SGD in a silo of two processes, and in two lanes, is that of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from callbacks.private_processes import CLIP, DTYPES, NOISE, adamw, fit, run_private
from launch import launch
from plain_private import PlainPrivateFederation
from toy import ToyModule, toy_data

TOLERANCES = {"64-true": 1e-12, "32-true": 1e-6}

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what a process alone, and each of two, has found."""
    folder = tmp_path_factory.mktemp("runs")
    for precision in DTYPES:
        found = fit(folder / f"one-{precision}", precision)
        torch.save({"one": found}, folder / f"{precision}-one.pt")
    assert launch(run_private, folder, processes=2) == [0, 0]
    return folder


def found(folder: Path, precision: str, rank: int | str) -> dict[str, Any]:
    return torch.load(folder / f"{precision}-{rank}.pt", weights_only=True)  # type: ignore[no-any-return]


def agree(actual: dict[str, Any], expected: dict[str, Any], tolerance: float = 0.0) -> None:
    """Weights and losses to a tolerance, accounts to the last bit.

    A batch's loss is the mean over processes of their parts' means, which differ in size.
    """
    torch.testing.assert_close(actual["state"], expected["state"], rtol=0, atol=tolerance)
    for key in ("spent", "epsilons"):
        assert actual[key] == expected[key]
    assert [*actual["spent"]] == [*expected["spent"]], "in another order, means differ"
    assert actual["metrics"].keys() == expected["metrics"].keys()
    for name, value in expected["metrics"].items():
        if tolerance and name == "fed/train_loss":
            continue
        assert actual["metrics"][name] == pytest.approx(value, rel=0, abs=tolerance), name


@pytest.mark.parametrize("precision", DTYPES)
def test_a_silo_of_two_equals_one_process(folder: Path, precision: str) -> None:
    one, first, second = (found(folder, precision, rank) for rank in ("one", 0, 1))
    agree(first["silo"], one["one"], TOLERANCES[precision])
    agree(second["silo"], first["silo"])
    assert len(one["one"]["spent"]) == 4 and one["one"]["metrics"]["dp/epsilon_max"] > 1


def test_a_silo_of_two_equals_plain_dp_sgd(folder: Path) -> None:
    torch.manual_seed(3)
    module = ToyModule(adamw).double()
    module.net.dropout.p = 0.0
    run = found(folder, "64-true", 1)["silo"]
    plain = PlainPrivateFederation(
        experiment=11,
        clients=[np.array(indices) for indices in run["clients"]],
        rounds=3,
        batch_size=4,  # two in each process
        configure=adamw,
        local_epochs=2,
        clients_per_round=3,
        frozen=lambda round: {f"core_{i}" for i in (1, 2, 3) if i != 1 + round % 3},
        noise=NOISE,
        bound=CLIP,
    )
    x, y = toy_data().tensors
    expected = plain.run(module.net, lambda net, i: cross_entropy(net(x[i]), y[i]))
    for name, value in expected.items():
        torch.testing.assert_close(run["state"][f"net.{name}"], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("precision", DTYPES)
def test_two_lanes_equal_one_process_to_the_last_bit(folder: Path, precision: str) -> None:
    one = found(folder, precision, "one")["one"]
    for rank in range(2):
        agree(found(folder, precision, rank)["lanes"], one)


@pytest.mark.parametrize("precision", DTYPES)
def test_goes_on_with_another_number_of_processes(folder: Path, precision: str) -> None:
    """Two lanes from where one process was; one from where two lanes, and a silo of two, were."""
    one = found(folder, precision, "one")["one"]
    for rank in range(2):
        agree(found(folder, precision, rank)["resumed"], one)
    for name, tolerance in (("lanes", 0.0), ("silo", TOLERANCES[precision])):
        checkpoint = folder / f"{name}-{precision}" / "second.ckpt"
        agree(fit(folder / f"{name}-on-one", precision, ckpt_path=checkpoint), one, tolerance)
