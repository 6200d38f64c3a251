"""Tensors that stay with their client: against plain PyTorch, killed, interrupted and refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from safetensors.torch import save
from torch import Tensor

from callbacks.killed_runs import killed_runs
from fedtt_lightning.callbacks import Communication, Personalization, Scaffold
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import RankList, TTRounding, UniformSampler
from launch import launch
from plain_federation import PlainFederation
from toy import toy_data
from toy_run import At, clients_files, make_run, one_cycle, outcome


def frozen_by_rotation(round: int) -> set[str]:
    return {f"core_{i}" for i in (1, 2, 3) if i != 1 + round % 3}


def stored(folder: Path, before_round: int = 99) -> dict[int, dict[str, Tensor] | None]:
    store = clients_files(folder / "clients")
    return {client: store.load(client, before_round) for client in range(4)}


def equal(a: dict[int, Any], b: dict[int, Any]) -> bool:
    return a.keys() == b.keys() and all(
        (a[c] is None and b[c] is None)
        or (a[c].keys() == b[c].keys() and all(torch.equal(a[c][n], b[c][n]) for n in a[c]))
        for c in a
    )


@pytest.mark.parametrize(
    ("names", "plus", "cohort"),
    [(["head"], False, 2), (["head"], True, 3), (["core_2$", "bias"], True, 3)],
    ids=["head", "head, FedTT+", "rotating core and biases, FedTT+"],
)
def test_equals_plain_pytorch(names: list[str], plus: bool, cohort: int, tmp_path: Path) -> None:
    federation = {"sampler": UniformSampler(cohort)}
    run = make_run(tmp_path, Personalization(names), plus=plus, federation=federation, max_epochs=5)
    trainer, module, data, _ = run
    reference = copy.deepcopy(module.net)
    first = {name: value.clone() for name, value in module.net.state_dict().items()}
    trainer.fit(module, datamodule=data)

    x, y = toy_data().tensors
    params = {name: p for name, p in reference.named_parameters() if p.requires_grad}
    private = [n for n in params if any(name.rstrip("$") in n for name in names)]
    plain = PlainFederation(
        experiment=11,
        clients=[data.clients[i] for i in range(4)],
        batch_size=4,
        configure=one_cycle,
        rounds=5,
        local_epochs=2,
        clients_per_round=cohort,
        frozen=frozen_by_rotation if plus else lambda round: set(),
        private=private,
    )
    expected = plain.run(
        reference,
        lambda net, batch: torch.nn.functional.cross_entropy(net(x[batch]), y[batch]),
    )
    for name, value in expected.items():
        assert torch.equal(module.net.get_parameter(name), value), name
        if name in private:
            assert torch.equal(value, first[name])
    clients = stored(tmp_path)
    assert equal(
        {client: values for client, values in clients.items() if values is not None},
        {c: {f"net.{n}": v for n, v in values.items()} for c, values in plain.own.items()},
    )
    assert any(
        not torch.equal(plain.own[a][n], plain.own[b][n])
        for n in private
        for a in plain.own
        for b in plain.own
    )


def test_private_tensors_do_not_travel(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, Personalization(["head"]), plus=False)
    trainer.fit(module, datamodule=data)
    shared = [
        p for n, p in module.named_parameters() if p.requires_grad and not n.startswith("net.head")
    ]
    flat = {"float64": torch.cat([p.detach().reshape(-1) for p in shared])}
    size = len(save(flat, {"schema": "0" * 64}))
    comm = next(c for c in trainer.callbacks if isinstance(c, Communication))  # type: ignore[attr-defined]
    assert comm.uploaded_total == comm.downloaded_total == 9 * size


@pytest.mark.processes
def test_killed_at_any_batch(tmp_path: Path) -> None:
    batches = [10, 24, 60]  # first, middle and last batches of visits
    assert launch(killed_runs, tmp_path, batches, Personalization(["head|core_2"])) == [0]
    whole = json.loads((tmp_path / "whole.json").read_text())
    clients = stored(tmp_path / "whole")
    assert any(values is not None for values in clients.values())
    for batch in batches:
        assert json.loads((tmp_path / f"killed-{batch}.json").read_text()) == whole, batch
        assert equal(stored(tmp_path / f"killed-{batch}"), clients), batch


METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    "factors": dict,
    "operators, ranks": lambda: {
        "federation": {"aggregation": TTRounding(), "ranks": RankList([1, 2, 3, 2])}
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_goes_on_inside_and_between_visits(method: str, tmp_path: Path) -> None:
    """From a checkpoint written at any batch, after the run went a little further."""
    names = ["head", "core_2"] if method == "factors" else ["head"]
    trainer, module, data, record = make_run(
        tmp_path / "whole", Personalization(names), **METHODS[method]()
    )
    trainer.fit(module, datamodule=data)
    expected, clients = outcome(module, record), stored(tmp_path / "whole")
    planner = trainer.callbacks[0].loop.planner  # type: ignore[attr-defined]
    length = planner.plan(0).num_batches
    first = planner.plan(1).visits[1].first_batch + length

    def stop(trainer: Trainer) -> None:
        raise RuntimeError("stopped")

    for batch in (first - 1, first, first + 2):
        folder = tmp_path / str(batch)
        path = folder / "kept.ckpt"
        save_at = At(batch, lambda trainer, path=path: trainer.save_checkpoint(path), end=True)  # type: ignore[misc]
        stop_at = At(batch + 12, stop)
        trainer, module, data, _ = make_run(
            folder, Personalization(names), save_at, stop_at, **METHODS[method]()
        )
        with pytest.raises(RuntimeError, match="stopped"):
            trainer.fit(module, datamodule=data)
        run = make_run(folder, Personalization(names), **METHODS[method]())
        trainer, module, data, record = run
        trainer.fit(module, datamodule=data, ckpt_path=path)
        assert outcome(module, record) == expected, batch
        assert equal(stored(folder), clients), batch


class Spoil(Callback):
    """Makes a client's training end with NaN: in all tensors, or in its head only."""

    def __init__(self, round: int, client: int, name: str) -> None:
        self.round, self.client, self.name = round, client, name

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        loop = trainer.callbacks[1].loop  # type: ignore[attr-defined]
        visit = loop.visit
        if (visit.round, visit.client) == (self.round, self.client) and visit.is_last(loop.step):
            with torch.no_grad():
                for name, tensor in loop.tensors.items():
                    if self.name in name:
                        tensor.fill_(float("nan"))


@pytest.mark.parametrize("spoilt", ["net", "head"])
def test_what_is_not_finite_is_not_kept(spoilt: str, tmp_path: Path) -> None:
    everyone = {"sampler": UniformSampler()}
    own = Personalization(["head"])
    run = make_run(tmp_path, own, plus=False, max_epochs=2, federation=everyone)
    trainer, module, data, _ = run
    trainer.callbacks.insert(0, Spoil(1, 2, spoilt))  # type: ignore[attr-defined]
    with pytest.warns(UserWarning, match="client 2 (is left out|keeps the private)"):
        trainer.fit(module, datamodule=data)
    before, after = stored(tmp_path, 1), stored(tmp_path, 2)
    assert equal({2: after[2]}, {2: before[2]})
    assert not equal({1: after[1]}, {1: before[1]})
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_runs_in_one_folder_do_not_meet(tmp_path: Path) -> None:
    """One that starts inside another, by mistake without its checkpoint; and Scaffold's files."""
    states = str(tmp_path / "states")

    def both() -> list[Callback]:
        return [Personalization(["head"], states), Scaffold(states)]

    trainer, module, data, record = make_run(tmp_path / "alone", *both())
    trainer.fit(module, datamodule=data)
    expected = outcome(module, record)

    def start_another(trainer: Trainer) -> None:
        trainer, module, data, record = make_run(tmp_path / "inner", *both())
        trainer.fit(module, datamodule=data)
        assert outcome(module, record) == expected

    def stop(trainer: Trainer) -> None:
        raise RuntimeError("stopped")

    interrupted = [At(30, start_another, end=True), At(60, stop)]
    trainer, module, data, _ = make_run(tmp_path / "outer", *interrupted, *both())
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.fit(module, datamodule=data)
    trainer, module, data, record = make_run(tmp_path / "outer", *both())
    trainer.fit(module, datamodule=data, ckpt_path="last")
    assert outcome(module, record) == expected
    assert len([*(tmp_path / "states").iterdir()]) == 2 * 3


def test_a_second_run_begins_with_nothing(tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        trainer, module, data, record = make_run(tmp_path, Personalization(["head"]))
        trainer.fit(module, datamodule=data)
        results.append(outcome(module, record))
    assert results[0] == results[1]
    run = make_run(tmp_path / "other", Personalization(["head"]), max_epochs=4)
    trainer, module, data, _ = run
    with pytest.raises(ConfigError, match=r"there is no folder .*other/clients/.*dirpath, or put"):
        trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["haed"], "'haed' in Personalization's names matches no .*; did you mean 'head'?"),
        (["xyz"], "no trainable parameter; parts of their names are .*core_1"),
        (["net"], "match every trainable parameter: nothing is left to federate"),
        (["core", "bias", "head"], "match every trainable parameter"),
    ],
)
def test_refuses_names(names: list[str], message: str, tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, Personalization(names))
    with pytest.raises(ConfigError, match=message):
        trainer.fit(module, datamodule=data)


def test_refuses_expressions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no regular expression"):
        Personalization(["(head"])
    for names in ([], "head"):
        with pytest.raises(ConfigError, match="must be a list of regular expressions"):
            Personalization(names)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    blocked = Personalization(["head"], str(tmp_path / "file" / "clients"))
    trainer, module, data, _ = make_run(tmp_path, blocked)
    with pytest.raises(ConfigError, match=r"cannot write to .*change Personalization's dirpath"):
        trainer.fit(module, datamodule=data)
