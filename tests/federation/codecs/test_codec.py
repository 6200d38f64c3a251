"""What holds for every codec: bytes, what is refused, and that nothing hides NaN or Inf."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.account.methods import Method, methods
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import (
    AdapterSchema,
    AdapterState,
    BFloat16,
    Float16,
    Int8,
    TopK,
    UploadCodec,
)
from random_updates import an_update, updates

CODECS = [Float16(), BFloat16(), Int8(), TopK(0.1), TopK(0.7), TopK(1.0), TopK(1e-9)]
codecs = st.sampled_from(CODECS)


@given(codecs, updates(), st.integers(0, 2**63 - 1))
def test_a_message_is_as_long_as_said_and_reads_as_it_was_written(
    codec: UploadCodec, update: AdapterState, key: int
) -> None:
    message = codec.encode(update, key)
    data = message.to_bytes()
    assert len(data) == codec.message_nbytes(update.schema)
    received = codec.read(data, update.schema)
    here, there = codec.decode(message), codec.decode(received)
    assert here.schema == there.schema == update.schema
    for dtype, buffer in update.buffers.items():
        assert here.buffers[dtype].dtype == torch.float64
        assert here.buffers[dtype].shape == buffer.shape
        assert torch.equal(here.buffers[dtype], there.buffers[dtype])
    again = codec.encode(update, key).to_bytes()
    assert again == data


@pytest.fixture(scope="module")
def bert_base() -> dict[str, Method]:
    return {method.name: method for method in methods("bert-base", rank=5, bottleneck=64)}


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("method", ["FedTT", "FedTT+", "FedTT+, factors only", "LoRA r=8"])
def test_length_on_the_shapes_of_bert_base(
    codec: UploadCodec, method: str, bert_base: dict[str, Method]
) -> None:
    found = bert_base[method]
    sent = {name: torch.zeros(found.tensors[name].shape) for name in found.rounds[0]}
    state = AdapterState.capture(sent)
    update = AdapterState(state.schema, {"float32": state.buffers["float32"].double()})
    message = codec.encode(update, 0)
    assert len(message.to_bytes()) == codec.message_nbytes(state.schema)
    values = sum(buffer.nbytes for buffer in message.buffers.values())
    assert 0 < len(message.to_bytes()) - values < 320


@given(codecs, updates(), st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.data())
def test_what_is_not_finite_is_read_as_not_finite(
    codec: UploadCodec, update: AdapterState, bad: float, data: st.DataObject
) -> None:
    assert codec.decode(codec.encode(update, 1)).is_finite()
    dtypes = [dtype for dtype, buffer in update.buffers.items() if len(buffer)]
    if dtypes:
        buffer = update.buffers[data.draw(st.sampled_from(dtypes))]
        buffer[data.draw(st.integers(0, len(buffer) - 1))] = bad
        assert not codec.decode(codec.encode(update, 1)).is_finite()


@given(codecs, st.sampled_from([1e5, 3e38, 1e39, 1e300]), st.integers(0, 99))
def test_what_is_too_large_stays_finite(codec: UploadCodec, large: float, key: int) -> None:
    """The largest value there is, with the sign of what was sent."""
    update = an_update(large, -large, 0.0, dtype="float64")
    read = codec.decode(codec.encode(update, key)).buffers["float64"]
    assert torch.isfinite(read).all() and read[2] == 0
    assert (read[0] > 6e4 or read[1] < -6e4) and read[0] >= 0 >= read[1]
    assert read.abs().max() <= large * 1.01


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_zeros_and_nothing(codec: UploadCodec) -> None:
    for update in (an_update(0.0, 0.0), an_update()):
        read = codec.decode(codec.encode(update, 3))
        assert torch.equal(read.buffers["float32"], update.buffers["float32"])


@pytest.mark.parametrize("codec", CODECS[:4], ids=repr)
def test_refuses_messages_of_another_kind(codec: UploadCodec) -> None:
    update = an_update(0.1, 0.2, 0.3)
    data = codec.encode(update, 0).to_bytes()
    renamed = AdapterSchema((replace(update.schema.specs[0], name="core_1"),))
    with pytest.raises(FederationError, match=r"schema .* is not the expected"):
        codec.read(data, renamed)
    other = TopK(0.2) if isinstance(codec, TopK) else TopK()
    with pytest.raises(FederationError, match="the same model, method, codec and round"):
        other.read(data, update.schema)
    for length in (0, 7, 60, len(data) - 1):
        with pytest.raises(FederationError):
            codec.read(data[:length], update.schema)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_refuses_fractions(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"federation\.upload.fraction is"):
        TopK(fraction).check()
