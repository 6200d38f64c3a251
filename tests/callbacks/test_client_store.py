"""A client finds what it left in its last visit, however often visits were trained again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedtt_lightning.callbacks.client_store import ClientStore
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import AdapterSchema


def state(value: float) -> dict[str, Tensor]:
    """Tensors of two dtypes that share memory, one of them not contiguous."""
    flat = torch.arange(12, dtype=torch.float64) + value
    return {
        "net.b": flat[:6].view(2, 3).T,
        "net.a": flat[6:],
        "steps": torch.tensor(3, dtype=torch.int64),
    }


def same(found: dict[str, Tensor] | None, expected: dict[str, Tensor]) -> bool:
    return (
        found is not None
        and [*found] == [*expected]
        and all(found[name].dtype == value.dtype for name, value in expected.items())
        and all(torch.equal(found[name], value) for name, value in expected.items())
    )


def test_keeps_bits_names_order_and_types(tmp_path: Path) -> None:
    store = ClientStore(tmp_path / "a" / "b")
    assert store.load(7, 3) is None
    store.save(7, 2, state(0.1))
    assert same(ClientStore(tmp_path / "a" / "b").load(7, 3), state(0.1))
    assert store.load(7, 2) is None
    assert store.load(77, 9) is None
    schema = AdapterSchema.of(state(0))
    assert same(store.load(7, 3, schema), state(0.1))
    with pytest.raises(ConfigError, match="another model or method"):
        store.load(7, 3, schema.select(["net.a"]))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_a_dictionary_of_all_versions(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rounds go on, and now and then back to a checkpoint that the kept versions still serve."""
    store = ClientStore.start(tmp_path_factory.mktemp("store"))
    truth: dict[int, dict[int, float]] = {}
    round = 0
    for _ in range(data.draw(st.integers(1, 12))):
        for client in data.draw(st.lists(st.sampled_from([0, 1, 255, 256, 12]), unique=True)):
            left = {r: v for r, v in truth.get(client, {}).items() if r < round}
            found = store.load(client, round)
            if left:
                assert same(found, state(left[max(left)]))
            else:
                assert found is None
            value = data.draw(st.floats(-9, 9))
            store.save(client, round, state(value))
            truth[client] = {**left, round: value}
        back = data.draw(st.integers(0, 3)) == 0
        if back and round > 0:
            round -= 1  # the checkpoint at the end of the round before
            kept = {c: {r: v for r, v in t.items() if r <= round} for c, t in truth.items()}
            store.resume(round)
            truth = {c: t for c, t in kept.items() if t}
        round += 1
    assert len(list(store.folder.glob("*/*"))) <= 2 * len(truth)


def test_says_when_a_checkpoint_is_too_old(tmp_path: Path) -> None:
    store = ClientStore.start(tmp_path)
    for round in (3, 7, 9):
        store.save(5, round, state(round))
    store.save(6, 8, state(8))
    with pytest.raises(ConfigError, match="client 5 had before round 6, only the two newest"):
        store.load(5, 5)
    with pytest.raises(ConfigError, match=r"client 5 had.*resume from a later checkpoint"):
        store.resume(5)
    assert same(store.load(5, 10), state(9))  # nothing was lost by the attempt
    assert store.load(6, 5) is None
    store.resume(7)
    assert same(store.load(5, 99), state(7))
    assert store.load(6, 99) is None


def test_runs_lie_beside_each_other(tmp_path: Path) -> None:
    old = ClientStore.start(tmp_path / "new" / "folder")
    old.save(5, 3, state(1))
    new = ClientStore.start(tmp_path / "new" / "folder")
    assert new.run != old.run and new.folder.parent == old.folder.parent
    assert new.load(5, 9) is None
    new.save(5, 3, state(2))
    old.resume(3)
    assert same(ClientStore(old.folder).load(5, 4), state(1))
    with pytest.raises(ConfigError, match=r"there is no folder .*absent, in which the run"):
        ClientStore(tmp_path / "absent").resume(4)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    store.save(5, 3, state(1))
    (path,) = tmp_path.glob("*/*")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ConfigError, match=r"5-3\.safetensors is no whole state"):
        store.load(5, 4)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="no whole state"):
        store.load(5, 4)


def test_many_clients_are_spread_over_folders(tmp_path: Path) -> None:
    store = ClientStore.start(tmp_path)
    for client in range(0, 100_000, 97):
        store.save(client, 0, {"a": torch.tensor([float(client)])})
    folders = [*store.folder.iterdir()]
    assert len(folders) == 391
    for client in (0, 97, 97 * 1030):
        found = store.load(client, 1)
        assert found is not None and found["a"].item() == client
