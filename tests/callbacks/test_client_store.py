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


Truth = dict[int, dict[int, float]]  # all versions of each client


def check_and_save(store: ClientStore, truth: Truth, client: int, round: int, value: float) -> None:
    """What a visit does, on disk and in the dictionary."""
    left = {version: kept for version, kept in truth.get(client, {}).items() if version < round}
    found = store.load(client, round)
    assert same(found, state(left[max(left)])) if left else found is None
    store.save(client, round, state(value))
    truth[client] = {**left, round: value}


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_equals_a_dictionary_of_all_versions(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Checkpoints are written anywhere, the run is killed anywhere, even as it writes one."""
    store = ClientStore.start(tmp_path_factory.mktemp("store"))
    chance = st.sampled_from([False, False, True])
    cohorts = [
        data.draw(st.lists(st.sampled_from([0, 1, 255, 256]), unique=True)) for _ in range(6)
    ]
    truth: Truth = {}
    checkpoints: list[tuple[int, int, Truth]] = []  # round, visits done, all versions
    round, done, events = 0, 0, 0
    while round < len(cohorts):
        if done < len(cohorts[round]):
            check_and_save(store, truth, cohorts[round][done], round, float(events))
            done, events = done + 1, events + 1
        is_open = done < len(cohorts[round])
        if data.draw(chance):
            checkpoints.append((round, done, {client: {**left} for client, left in truth.items()}))
            store.note_checkpoint(round, is_open)
        if checkpoints and events < 25 and data.draw(chance):
            round, done, saved = data.draw(st.sampled_from(checkpoints[-2:]))
            checkpoints = [(round, done, saved)]
            truth = {client: {**left} for client, left in saved.items()}
            store = ClientStore(store.folder)
            store.resume(round)
            is_open = done < len(cohorts[round])
        if not is_open:
            round, done = round + 1, 0
    for client, left in truth.items():
        assert same(store.load(client, 9), state(left[max(left)]))


@settings(max_examples=60, deadline=None)
@given(
    visits=st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True).map(sorted),
    saves=st.sets(st.integers(0, 30)),
    asked=st.integers(0, 31),
)
def test_never_gives_a_version_in_place_of_a_removed_one(
    visits: list[int], saves: set[int], asked: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = ClientStore.start(tmp_path_factory.mktemp("store"))
    for round in range(31):
        if round in visits:
            store.save(3, round, state(round))
        if round in saves:
            store.note_checkpoint(round, is_open=False)
    earlier = [visit for visit in visits if visit < asked]
    if not earlier:
        assert store.load(3, asked) is None
    elif (store.folder / "00000" / f"3-{earlier[-1]}.safetensors").exists():
        assert same(store.load(3, asked), state(earlier[-1]))
    else:
        for ask in (lambda: store.load(3, asked), lambda: store.resume(asked - 1)):
            with pytest.raises(ConfigError, match="no longer holds the state that client 3 had"):
                ask()
    assert same(store.load(3, 31), state(visits[-1]))
    assert len(list(store.folder.glob("*/*"))) <= 4


def test_keeps_few_versions(tmp_path: Path) -> None:
    for folder, most in (("every visit", 3), ("every round", 3), ("never", 2)):
        store = ClientStore.start(tmp_path / folder)
        for round in range(9):
            for client in (1, 2):
                store.save(client, round, state(round))
                if folder == "every visit":
                    store.note_checkpoint(round, is_open=client == 1)
            if folder == "every round":
                store.note_checkpoint(round, is_open=False)
        assert len(list(store.folder.glob("*/1-*"))) <= most


def test_says_when_a_checkpoint_is_too_old(tmp_path: Path) -> None:
    store = ClientStore.start(tmp_path)
    for round in (3, 7, 9):
        store.save(5, round, state(round))
    store.save(6, 8, state(8))
    with pytest.raises(ConfigError, match="client 5 had before round 6, only those that the new"):
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
