"""Adapters and updates inside messages."""

from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import AdapterSchema, AdapterState, Int8, TopK, UploadCodec
from fedtt_lightning.silo.payloads import (
    adapter_hash,
    pack_names,
    read_update,
    read_values,
    unpack_names,
    write_values,
)
from random_updates import updates


def _adapter() -> AdapterState:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "a": torch.randn(3, 4, generator=generator),
        "b": torch.randn(5, generator=generator, dtype=torch.float64),
        "c": torch.randn(2, 2, generator=generator),
    }
    return AdapterState.capture(tensors)


@given(st.lists(st.booleans(), max_size=40))
def test_names_are_read_as_they_were_packed(flags: list[bool]) -> None:
    among = [f"core_{i}" for i in range(len(flags))]
    names = {name for name, flag in zip(among, flags, strict=True) if flag}
    assert unpack_names(pack_names(names, among), among) == names


@given(st.text(max_size=8))
def test_other_names_are_refused(text: str) -> None:
    among = [f"core_{i}" for i in range(11)]
    try:
        names = unpack_names(text, among)
    except FederationError:
        return
    assert pack_names(names, among) == text


def test_a_hash_tells_any_other_value_or_name() -> None:
    one, other = _adapter(), _adapter()
    assert adapter_hash(one) == adapter_hash(other)
    other.tensors()["c"][1, 1] += 1e-6
    renamed = AdapterSchema.from_rows([("x", *row[1:]) for row in one.schema.rows()[:1]])
    first = one.schema.select(["a"])
    assert len({
        adapter_hash(one),
        adapter_hash(other),
        adapter_hash(one.select(first)),
        adapter_hash(AdapterState(renamed, one.select(first).buffers)),
    }) == 4  # fmt: skip


def test_values_of_some_names_travel() -> None:
    adapter = _adapter()
    for names in ({"a", "b"}, {"c"}, set()):
        payload = write_values(adapter, names)
        read = read_values(payload, adapter.schema, names).tensors()
        assert read.keys() == names
        assert all(torch.equal(value, adapter.tensors()[name]) for name, value in read.items())
        for other in {"a", "c"}, {"b"}, set():
            if other != names:
                with pytest.raises(FederationError):
                    read_values(payload, adapter.schema, other)


def test_weights_become_the_update_that_was_trained() -> None:
    start, new = _adapter(), _adapter()
    new.tensors()["a"][0] = torch.tensor([1e-30, 5.0, -1e20, 0.1])
    travels = start.schema.select(["a", "b"])
    read = read_update(new.select(travels).to_bytes(), start, travels, travels, None)
    expected = new.select(travels).minus(start.select(travels))
    assert all(torch.equal(read.buffers[d], b) for d, b in expected.buffers.items())


def test_a_smaller_rank_is_filled_up_with_zeros() -> None:
    start, new = _adapter(), _adapter()
    new.tensors()["a"][:2] += 1
    sent = AdapterSchema.from_rows([("a", (2, 4), "float32"), ("b", (5,), "float64")])
    travels = start.schema.select(["a", "b"])
    small = new.select(travels).cut(sent)
    read = read_update(small.to_bytes(), start, travels, sent, None).tensors()["a"]
    assert torch.equal(read, new.tensors()["a"].double() - start.tensors()["a"].double())


@given(updates(), st.sampled_from([Int8(), TopK(0.3)]), st.data())
def test_damaged_payloads_are_refused_or_read(
    update: AdapterState, codec: UploadCodec, data: st.DataObject
) -> None:
    schema = update.schema
    zeros = {dtype: torch.zeros(n, dtype=t) for dtype, (t, n) in schema.layout.items()}
    start = AdapterState(schema, zeros)
    plain = AdapterState(schema, {d: b.to(getattr(torch, d)) for d, b in update.buffers.items()})
    for reader, whole in (
        (codec, codec.encode(update, 3).to_bytes()),
        (None, plain.to_bytes()),
    ):
        read = read_update(whole, start, schema, schema, reader)
        assert read.schema == schema and all(
            b.dtype == torch.float64 for b in read.buffers.values()
        )
        flipped = bytearray(whole)
        flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        for bad in (flipped, whole[: data.draw(st.integers(0, len(whole) - 1))]):
            with suppress(FederationError):
                assert read_update(bytes(bad), start, schema, schema, reader).schema == schema
