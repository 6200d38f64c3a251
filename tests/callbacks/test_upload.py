"""Updates through a codec inside a run: what the server gets, what clients keep, what it costs."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from fedtt_lightning.callbacks import CentralDP, Communication, LoRAMerging
from fedtt_lightning.federation import (
    AdapterState,
    BFloat16,
    ClientFailures,
    FixedSampler,
    FlexLoRA,
    Float16,
    FLoRA,
    HetLoRA,
    Int8,
    PrivateMean,
    RankList,
    TopK,
    TTRounding,
    UniformSampler,
    UploadCodec,
    seed_for,
)
from toy import FEATURES
from toy_run import ROUNDS, clients_files, make_run

CODECS = [Float16(), BFloat16(), Int8(), TopK(0.1)]


class Ends(Callback):
    """Keeps both ends of each upload, and how the server's adapter moves."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, AdapterState]] = []
        self.read: list[AdapterState] = []
        self.moves: list[dict[str, Tensor]] = []

    def on_client_update(self, trainer: Any, module: Any, visit: Any, update: AdapterState) -> None:
        self.sent.append((visit, update.clone()))

    def on_client_end(self, trainer: Trainer, module: Any, visit: Any) -> None:
        self.read.append(trainer.callbacks[0].loop.counted)  # type: ignore[attr-defined]

    def on_aggregate(self, trainer: Any, module: Any, old: AdapterState, new: AdapterState) -> None:
        self.moves.append(new.clone().minus(old).tensors())


def fit(
    folder: Path, *extra: Callback, net: nn.Module | None = None, **options: Any
) -> tuple[Ends, Trainer]:
    ends = Ends()
    trainer, module, data, _ = make_run(folder, ends, *extra, **options)
    if net is not None:
        module.net = net.double().train()  # type: ignore[assignment]
    trainer.fit(module, datamodule=data)
    return ends, trainer


def communication(trainer: Trainer) -> Communication:
    return next(c for c in trainer.callbacks if isinstance(c, Communication))  # type: ignore[attr-defined]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
@pytest.mark.parametrize("plus", [False, True], ids=["FedTT", "FedTT+"])
def test_the_server_gets_what_it_reads(codec: UploadCodec, plus: bool, tmp_path: Path) -> None:
    """Under error feedback no client's update is lost, only late; bytes are the messages'."""
    ends, trainer = fit(tmp_path, plus=plus, federation={"upload": codec})
    kept: dict[int, dict[str, Tensor]] = defaultdict(dict)
    length, read = 0, {}
    for (visit, update), received in zip(ends.sent, ends.read, strict=True):
        wanted = {n: t + kept[visit.client].get(n, 0) for n, t in update.tensors().items()}
        state = AdapterState.capture(wanted, update.schema)
        key = seed_for(11, "upload", visit.round, visit.client)
        data = codec.encode(state, key).to_bytes()
        length += len(data)
        decoded = codec.decode(codec.read(data, update.schema)).tensors()
        kept[visit.client] |= {name: wanted[name] - value for name, value in decoded.items()}
        assert received.schema == update.schema
        for name, value in received.tensors().items():
            assert torch.equal(value, decoded[name]), name
        read[visit.round, visit.client] = visit.num_examples, decoded
    assert len(read) == 3 * ROUNDS and communication(trainer).uploaded_total == length

    for round, move in enumerate(ends.moves):
        visits = [value for (number, _), value in read.items() if number == round]
        for name in visits[0][1]:
            mean = sum(n * values[name] for n, values in visits) / sum(n for n, _ in visits)
            torch.testing.assert_close(move[name], mean, rtol=0, atol=1e-12)
    store = clients_files(tmp_path / "residuals")
    for client, values in kept.items():
        state = store.load(client, ROUNDS)
        assert state is not None
        for name, value in state.items():
            assert torch.equal(value, values.get(name, torch.zeros_like(value))), name
            total = value.clone()
            for (visit, update), received in zip(ends.sent, ends.read, strict=True):
                if visit.client == client and name in update.schema.names:
                    total += received.tensors()[name] - update.tensors()[name]
            assert total.abs().max() < 1e-12


def test_without_feedback_nothing_is_kept(tmp_path: Path) -> None:
    codec = Int8(error_feedback=False)
    ends, _ = fit(tmp_path, federation={"upload": codec})
    for (visit, update), received in zip(ends.sent, ends.read, strict=True):
        key = seed_for(11, "upload", visit.round, visit.client)
        alone = codec.decode(codec.encode(update, key))
        assert torch.equal(alone.buffers["float64"], received.buffers["float64"])
    fit(tmp_path / "fast", federation={"upload": Int8()}, fast_dev_run=True)
    assert not [*tmp_path.rglob("residuals")]


def test_messages_of_clients_that_are_not_trained(tmp_path: Path) -> None:
    """Late clients and those of skipped rounds have sent theirs in the same form."""
    federation = {
        "upload": Int8(),
        "sampler": FixedSampler([0, 1, 2, 3]),
        "local_epochs": 1,
        "failures": ClientFailures(dropout_rate=0.35, deadline=8, slowness=1.0),
        "min_clients": 2,
    }
    ends, trainer = fit(tmp_path, plus=False, federation=federation, max_epochs=8)
    comm = communication(trainer)
    assert comm.uploads > len(ends.sent) > 0
    message = Int8().encode(ends.sent[0][1], 0).to_bytes()
    assert comm.uploaded_total == comm.uploads * len(message)


class Spoil(Callback):
    """Makes client 2's update of round 2 hold a NaN or an infinity."""

    def __init__(self, value: float) -> None:
        self.value = value

    def on_client_update(self, trainer: Any, module: Any, visit: Any, update: AdapterState) -> None:
        if (visit.round, visit.client) == (1, 2):
            update.buffers["float64"][5] = self.value


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_what_is_not_finite_is_left_out(codec: UploadCodec, value: float, tmp_path: Path) -> None:
    """And the client keeps what it kept before."""
    federation = {"upload": codec, "sampler": UniformSampler(), "local_epochs": 1}
    with pytest.warns(UserWarning, match="client 2 is left out of round 2"):
        _, trainer = fit(tmp_path, Spoil(value), plus=False, federation=federation, max_epochs=2)
    assert trainer.callbacks[0].loop.rejected == [2]  # type: ignore[attr-defined]
    store = clients_files(tmp_path / "residuals")
    rounds = {path.name for path in store.folder.rglob("*-*.safetensors")}
    assert "2-0.safetensors" in rounds and "2-1.safetensors" not in rounds
    assert "1-1.safetensors" in rounds


def lora_net() -> nn.Module:
    layers = [nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, 2)]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0"], modules_to_save=["2"])
    return get_peft_model(nn.Sequential(*layers), config)  # type: ignore[arg-type]


RULES: dict[str, Any] = {
    "TTRounding": lambda: (TTRounding(), False, None, []),
    "FlexLoRA": lambda: (FlexLoRA(), False, lora_net(), []),
    "FLoRA": lambda: (FLoRA(), False, lora_net(), [LoRAMerging()]),
    "HetLoRA": lambda: (HetLoRA(), True, lora_net(), []),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", [Int8, TopK])
def test_clients_of_different_rank(rule: str, kind: type[UploadCodec], tmp_path: Path) -> None:
    """A message holds what a client of its rank has; rules that make factors anew, too."""
    aggregation, feedback, net, extra = RULES[rule]()
    codec = kind(error_feedback=feedback)
    ranks = RankList([1, 2, 3, 2])
    federation = {"aggregation": aggregation, "ranks": ranks, "upload": codec}
    ends, trainer = fit(tmp_path, *extra, net=net, plus=False, federation=federation)
    full, length = 3 if rule == "TTRounding" else 4, 0
    for (visit, update), received in zip(ends.sent, ends.read, strict=True):
        small, rank = {}, ranks.values[visit.client]
        for name, value in update.tensors().items():
            axes = {"core_": (0, 2), "lora_A": (0,), "lora_B": (1,)}
            cut = next((axes[part] for part in axes if part in name), ())
            shape = [min(n, rank) if i in cut else n for i, n in enumerate(value.shape)]
            small[name] = value[tuple(map(slice, shape))]
            behind = received.tensors()[name].clone()
            behind[tuple(map(slice, shape))] = 0
            assert not behind.any() and not (value.any() and rank < full and not small[name].any())
        message = codec.encode(AdapterState.capture(small), 0).to_bytes()
        length += len(message)
    assert communication(trainer).uploaded_total == length
    assert all(torch.isfinite(value).all() for value in ends.moves[-1].values())


def test_a_private_mean_clips_what_it_reads(tmp_path: Path) -> None:
    """Rounding may lengthen an update that the client had clipped: the server bounds it itself."""
    federation = {
        "aggregation": PrivateMean(clip=0.05),
        "weighting": "equal",
        "sampler": UniformSampler(3),
        "upload": TopK(0.2),
    }
    private = CentralDP(noise_multiplier=0.0)
    ends, _ = fit(tmp_path, private, plus=False, federation=federation)
    for round, move in enumerate(ends.moves):
        total = 0
        for received in ends.read[3 * round : 3 * round + 3]:
            values = received.buffers["float64"]
            length = values.norm()
            assert length > 0.05
            total = total + values * (0.05 / length)
        flat = torch.cat([value.reshape(-1) for value in move.values()])
        torch.testing.assert_close(flat, total / 3, rtol=0, atol=1e-12)
