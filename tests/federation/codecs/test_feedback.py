"""What messages leave out is sent later: sums that telescope, and what stalls without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedtt_lightning.federation import (
    AdapterSchema,
    AdapterState,
    BFloat16,
    Float16,
    Int8,
    TensorSpec,
    TopK,
    UploadCodec,
)
from fedtt_lightning.federation.codecs import transmit
from random_updates import an_update

CODECS = [Float16(), BFloat16(), Int8(), TopK(0.1)]
SCHEMA = AdapterSchema(
    (
        TensorSpec("core_0", (1, 4, 3), "float32"),
        TensorSpec("core_1", (3, 4, 3), "float64"),
        TensorSpec("head", (7,), "float32"),
    )
)


def random_update(schema: AdapterSchema, seed: int) -> AdapterState:
    rng = np.random.default_rng(seed)
    sizes = {dtype: numel for dtype, (_, numel) in schema.layout.items()}
    buffers = {d: torch.from_numpy(rng.normal(size=n) * 1e-2) for d, n in sizes.items()}
    return AdapterState(schema, buffers)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_what_is_read_and_what_is_kept_add_up(codec: UploadCodec) -> None:
    """Also of tensors that do not travel in every round."""
    kept: dict[str, torch.Tensor] = {}
    sent = {spec.name: torch.zeros(spec.shape, dtype=torch.float64) for spec in SCHEMA.specs}
    read = {name: value.clone() for name, value in sent.items()}
    for round in range(50):
        names = {"head", f"core_{round % 2}"}
        update = random_update(SCHEMA.select(names), round)
        waiting = {name: value for name, value in kept.items() if name not in names}
        received, kept, _ = transmit(codec, update, round, kept)
        assert received.schema == update.schema
        for name, value in waiting.items():
            assert torch.equal(kept[name], value)
        for name in names:
            sent[name] += update.tensors()[name]
            read[name] += received.tensors()[name]
    for name in sent:
        torch.testing.assert_close(read[name] + kept[name], sent[name], rtol=0, atol=1e-12)
        assert (read[name] - sent[name]).abs().max() > 1e-7


def test_without_what_was_kept_it_is_the_codec_alone() -> None:
    update = random_update(SCHEMA, 0)
    received, kept, _ = transmit(Int8(), update, 9)
    alone = Int8().decode(Int8().encode(update, 9))
    for dtype, buffer in alone.buffers.items():
        assert torch.equal(received.buffers[dtype], buffer)
    assert kept.keys() == set(SCHEMA.names)


def descend(feedback: bool, step: float = 0.02, rounds: int = 600) -> float:
    """Where two clients are in the end on their way from 0 to their minimum at 1, by top-1.

    They pull the first coordinate apart, which cancels out, and the second together.
    """
    minimum, place = np.array([0.0, 1.0]), np.zeros(2)
    kept: list[dict[str, torch.Tensor]] = [{}, {}]
    for _ in range(rounds):
        read = []
        for client, apart in enumerate([10.0, -10.0]):
            pull = minimum - place + [apart, 0.0]
            update = an_update(*(step * pull), dtype="float64")
            received, left, _ = transmit(TopK(0.5), update, 0, kept[client])
            kept[client] = left if feedback else {}
            read.append(received.buffers["float64"].numpy())
        place = place + np.mean(read, axis=0)
    return float(place[1])


def test_top_k_stalls_without_feedback() -> None:
    """With it, what was not sent is sent once it is larger than a step of the other coordinate."""
    assert descend(feedback=False) == 0.0
    assert abs(descend(feedback=True) - 1.0) < 0.02 * 10


def test_smaller_ranks_send_their_corner() -> None:
    """The entries behind a client's rank are zero, and not sent."""
    small = AdapterSchema(
        (
            TensorSpec("core_0", (1, 4, 2), "float32"),
            TensorSpec("core_1", (2, 4, 2), "float64"),
            SCHEMA.specs[2],
        )
    )
    update = random_update(small, 0).padded(SCHEMA)
    assert int((update.tensors()["core_1"] != 0).sum()) == 16
    received, kept, _ = transmit(Int8(), update, 4, schema=small)
    alone = Int8().decode(Int8().encode(update.cut(small), 4))
    assert alone.schema == small
    for name, value in alone.tensors().items():
        corner = received.tensors()[name][tuple(map(slice, value.shape))]
        assert torch.equal(corner, value)
        assert torch.equal(kept[name] + received.tensors()[name], update.tensors()[name])
    assert (received.tensors()["core_1"] != 0).sum() <= 16
