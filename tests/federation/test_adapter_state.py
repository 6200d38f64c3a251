"""Flat buffers with a schema: exact round trips, and nothing accepted that does not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import AdapterSchema, AdapterState
from fedtt_lightning.federation.adapter_state import TensorSpec

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@st.composite
def named_tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    count = draw(st.integers(1, 6))
    tensors = {}
    for i in range(count):
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        dtype = draw(st.sampled_from(DTYPES))
        tensors[f"layer.{i}.core_{count - i}"] = torch.randn(shape).to(dtype)
    return tensors


@given(named_tensors())
def test_round_trips(tensors: dict[str, torch.Tensor]) -> None:
    state = AdapterState.capture(tensors)
    assert list(state.tensors()) == list(tensors)
    received = AdapterState.from_bytes(state.to_bytes(), AdapterSchema.of(tensors))
    target = {name: torch.empty_like(tensor) for name, tensor in tensors.items()}
    received.copy_into(target)
    for name, tensor in tensors.items():
        assert torch.equal(target[name], tensor) and target[name].dtype == tensor.dtype
    assert state.schema.nbytes == sum(t.numel() * t.itemsize for t in tensors.values())


@given(named_tensors(), st.data())
def test_select_keeps_order_and_values(
    tensors: dict[str, torch.Tensor], data: st.DataObject
) -> None:
    names = data.draw(st.sets(st.sampled_from(sorted(tensors)), min_size=1))
    state = AdapterState.capture(tensors)
    part = state.select(state.schema.select(names))
    assert list(part.tensors()) == [name for name in tensors if name in names]
    assert all(torch.equal(value, tensors[name]) for name, value in part.tensors().items())


def test_nothing_is_copied_where_there_is_nothing() -> None:
    target = torch.ones(2)
    AdapterState.capture({}).copy_into({"a": target})
    assert torch.equal(target, torch.ones(2))


def test_capture_copies_and_minus_is_float64() -> None:
    tensor = torch.tensor([1.0, 2.0])
    old = AdapterState.capture({"a": tensor})
    tensor += 2**-20
    update = AdapterState.capture({"a": tensor}).minus(old)
    assert update.buffers["float32"].dtype == torch.float64
    assert torch.equal(update.buffers["float32"], torch.full((2,), 2.0**-20, dtype=torch.float64))


def test_message_is_barely_longer_than_its_values() -> None:
    """BERT-base with 48 tensor trains of five cores: under 0.1 % beyond the raw values."""
    tensors = {f"layer.{i}.core_{j}": torch.zeros(5, 8, 5) for i in range(48) for j in range(5)}
    state = AdapterState.capture(tensors)
    assert len(state.to_bytes()) < 1.001 * state.schema.nbytes


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["float32", "float64", "bfloat16", "float16", "int64", "complex64"]),
            st.one_of(st.integers(0, 300), st.integers(0, 6).map(lambda power: 10**power)),
        ),
        max_size=8,
    )
)
def test_tells_a_message_s_length_without_building_it(rows: list[tuple[str, int]]) -> None:
    tensors = {
        f"core_{i}": torch.zeros(numel, dtype=getattr(torch, dtype))
        for i, (dtype, numel) in enumerate(rows)
    }
    state = AdapterState.capture(tensors)
    assert state.schema.message_nbytes == len(state.to_bytes())


def test_tells_the_length_of_what_would_not_fit_into_memory() -> None:
    schema = AdapterSchema((TensorSpec("weight", (10**7, 10**7), "float32"),))
    assert 0 < schema.message_nbytes - 4 * 10**14 < 256


@pytest.mark.parametrize(
    "change",
    [
        {"a": torch.zeros(2, 3), "b": torch.zeros(4)},  # another shape
        {"b": torch.zeros(4), "a": torch.zeros(3, 2)},  # another order
        {"a": torch.zeros(3, 2), "c": torch.zeros(4)},  # another name
        {"a": torch.zeros(3, 2, dtype=torch.float64), "b": torch.zeros(4)},
    ],
)
def test_other_schemas_are_refused(change: dict[str, torch.Tensor]) -> None:
    state = AdapterState.capture({"a": torch.zeros(3, 2), "b": torch.zeros(4)})
    with pytest.raises(FederationError, match="schema"):
        AdapterState.from_bytes(state.to_bytes(), AdapterSchema.of(change))


@given(st.data())
def test_damaged_messages_are_refused(data: st.DataObject) -> None:
    state = AdapterState.capture({"a": torch.arange(6.0)})
    message = state.to_bytes()
    cut = data.draw(st.integers(0, len(message) - 1))
    with pytest.raises(FederationError):
        AdapterState.from_bytes(message[:cut], state.schema)


@given(st.binary(max_size=64))
def test_garbage_is_refused(message: bytes) -> None:
    schema = AdapterSchema.of({"a": torch.zeros(3)})
    with pytest.raises(FederationError):
        AdapterState.from_bytes(message, schema)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"F8_E4M3"', b'"F8_E8M0"'),  # which torch has not got
        (b'"schema":"2', b'"schema":"\\ud800'),
    ],
)
def test_forged_headers_are_refused_in_plain_text(old: bytes, new: bytes) -> None:
    state = AdapterState.capture({"a": torch.zeros(3).to(torch.float8_e4m3fn)})
    message = state.to_bytes()
    size = int.from_bytes(message[:8], "little")
    header = message[8 : 8 + size].replace(old, new)
    assert old in message and old not in header
    forged = len(header).to_bytes(8, "little") + header + message[8 + size :]
    with pytest.raises(FederationError) as error:
        AdapterState.from_bytes(forged, state.schema)
    assert str(error.value).isprintable()


def test_is_finite() -> None:
    assert AdapterState.capture({"a": torch.ones(3)}).is_finite()
    for bad in (float("nan"), float("inf"), -float("inf")):
        assert not AdapterState.capture({"a": torch.tensor([1.0, bad])}).is_finite()
