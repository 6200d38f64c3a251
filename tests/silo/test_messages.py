"""Messages between server and silos: what is read is what was written, or an error of one line."""

import json
import struct
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.messages import (
    Done,
    Hello,
    Here,
    Message,
    NeedsAll,
    Refused,
    Stage,
    Train,
    Update,
    decode,
    encode,
)

LIMIT = 10_000
HASH = "0123456789abcdef" * 2
_count = st.integers(0, 2**63)
_number = st.floats(-1e9, 1e9)
_text = st.text(st.characters(codec="utf-8"), max_size=40).filter(str.isprintable)
_payload = st.binary(max_size=200)
_messages = st.one_of(
    st.builds(Hello, _text),
    st.builds(
        Here,
        *[_text, _count, _count, _count, _count],
        st.dictionaries(_text, _text),
        st.none() | _number,
    ),
    st.builds(Train, *[_text, _count, _count, st.integers(-9, 9), _text, _text, _text, _text]),
    st.builds(
        Update,
        *[_text, _count, _count, _count, st.none() | _number, _number, st.none() | _number],
        _payload,
    ),
    st.builds(Stage, _text, _count, _count, _payload),
    st.builds(NeedsAll, _text, _count),
    st.builds(Done, _text),
    st.builds(Refused, _text),
)


def _survives(data: bytes, message: Message) -> None:
    """Assert that bytes are the message, or are refused."""
    with suppress(FederationError):
        assert decode(data, LIMIT) == message


@given(_messages)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    data = encode(message)
    assert decode(data, len(data)) == message
    with pytest.raises(FederationError, match="at most"):
        decode(data, len(data) - 1)


@given(_messages, st.data())
def test_damage_is_never_taken_for_another_message(message: Message, data: st.DataObject) -> None:
    whole = encode(message)
    _survives(whole[: data.draw(st.integers(0, len(whole) - 1))], message)
    flipped = bytearray(whole)
    flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FederationError):
        decode(bytes(flipped), LIMIT)
    with pytest.raises(FederationError):
        decode(whole + data.draw(st.binary(min_size=1, max_size=9)), LIMIT)


@given(st.binary(max_size=300), st.integers(0, 2**64 - 1))
def test_what_is_no_message_is_refused(data: bytes, length: int) -> None:
    for bad in (data, struct.pack("<Q", length) + data, struct.pack("<Q", len(data)) + data):
        with pytest.raises(FederationError):
            decode(bad, LIMIT)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=12,
)


@given(st.sampled_from(["Train", "Update", "Here", "Done"]), st.lists(_json, max_size=11))
def test_headers_of_other_values_are_refused(kind: str, values: list[object]) -> None:
    header = json.dumps({"__metadata__": {"fedtt": json.dumps([kind, *values])}}).encode()
    with pytest.raises(FederationError):
        decode(struct.pack("<Q", len(header)) + header, 1 << 20)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000, '"\\ud800"', "NaN", '{"a": 1e999}'])
def test_headers_that_hurt_parsers_are_refused(text: str) -> None:
    for header in (text, json.dumps({"__metadata__": {"fedtt": text}})):
        with pytest.raises(FederationError):
            decode(struct.pack("<Q", len(header)) + header.encode(), 1 << 20)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "1", True, [1]])
def test_values_of_another_type_are_not_sent(bad: object) -> None:
    update = Update("run", 1, 0, 10, 0.5, 1.0, None, b"abc")
    with pytest.raises(FederationError, match="loss"):
        encode(replace(update, loss=bad))  # type: ignore[arg-type]
    with pytest.raises(FederationError, match="round"):
        encode(replace(update, round=-1))


@pytest.mark.parametrize("text", ["\ud800", "\x1b[2J", "two\nlines"])
def test_text_that_hurts_terminals_and_logs_is_refused(text: str) -> None:
    header = json.dumps({"__metadata__": {"fedtt": json.dumps(["Refused", text, "hash"])}}).encode()
    with pytest.raises(FederationError, match="reason") as error:
        decode(struct.pack("<Q", len(header)) + header, LIMIT)
    assert str(error.value).isprintable()
    with pytest.raises(FederationError, match="reason"):
        encode(Refused(text))


def test_a_header_is_small_beside_its_payload() -> None:
    names = "A" * 4 * -(-300 // 24)  # a bit each of 300 tensors, in base64
    payload = bytes(10_000)
    train = Train("r" * 16, 9999, 9999, 2**63, HASH, HASH, names, names, payload)
    update = Update("r" * 16, 9999, 99999, 10**7, 0.1 + 0.2, 1 / 3, 10 / 3, payload)
    for message in (train, update):
        assert len(encode(message)) - len(payload) < 400
