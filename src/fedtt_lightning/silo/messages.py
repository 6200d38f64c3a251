"""What server and silo say to each other, as bytes that can be checked before they are believed."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from hashlib import blake2b
from math import isfinite
from typing import Any, get_type_hints

import numpy as np
from safetensors.numpy import save

from fedtt_lightning.errors import FederationError

PROTOCOL = 1
_KEY = "fedtt"
_LARGEST = 1 << 64
_HEADER = 1 << 20  # bytes a header may have; that of an adapter of 1000 tensors has 600


@dataclass(frozen=True)
class Hello:
    """The server asks a silo who it is; `run` is the federated run, for its whole life."""

    run: str


@dataclass(frozen=True)
class Here:
    """A silo's answer to `Hello`.

    Attributes:
        client, clients: it is client `client` of `clients`, from 0.
        examples: on which it trains.
        settings: what must be the same at the server, by what a user would change.
        epsilon: what the client's privacy has cost so far, None without local privacy.
    """

    version: str
    protocol: int
    client: int
    clients: int
    examples: int
    settings: dict[str, str]
    epsilon: float | None


@dataclass(frozen=True)
class Train:
    """The server asks a silo for its visit in a round.

    Attributes:
        round: from 0.
        rounds: of the whole run.
        experiment: the seed that keys everything.
        schema: hash of the adapter's whole schema, see `payloads.schema_hash`.
        adapter: hash of the global adapter, see `payloads.adapter_hash`.
        trained: names that train, see `payloads.pack_names`.
        changed: names whose values are in the payload.
        payload: `AdapterState.to_bytes` of those; empty if there are none.
    """

    run: str
    round: int
    rounds: int
    experiment: int
    schema: str
    adapter: str
    trained: str
    changed: str
    payload: bytes = b""


@dataclass(frozen=True)
class Update:
    """A silo's visit, in answer to `Train`.

    Attributes:
        examples: on which the client trained, its weight.
        loss: mean loss of its batches, None if there is none that is finite.
        seconds: what the visit took.
        epsilon: what the client's privacy has cost so far, None without local privacy.
        payload: what `payloads.write_update` wrote; under secure aggregation public keys.
    """

    run: str
    round: int
    client: int
    examples: int
    loss: float | None
    seconds: float
    epsilon: float | None
    payload: bytes = b""


@dataclass(frozen=True)
class Stage:
    """A stage of secure aggregation, after `Train`; a silo answers with the same.

    Attributes:
        stage: 1 shares secrets, 2 masks the update, 3 unmasks the sum.
        payload: what the halves of the protocol say, see `secure_letters`.
    """

    run: str
    round: int
    stage: int
    payload: bytes = b""


@dataclass(frozen=True)
class NeedsAll:
    """A silo cannot make the round's adapter from what changed: all of it must be sent."""

    run: str
    round: int


@dataclass(frozen=True)
class Done:
    """The run is over; a silo answers with the same."""

    run: str


@dataclass(frozen=True)
class Refused:
    """The other side will not take part, for a reason of one line.

    From a server it ends the silo, which answers with the same.
    """

    reason: str


Message = Hello | Here | Train | Update | Stage | NeedsAll | Done | Refused
_KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Hello, Here, Train, Update, Stage, NeedsAll, Done, Refused)
}


def encode(message: Message) -> bytes:
    """Return a message as safetensors: a header with a hash of everything, and the payload.

    Raises:
        FederationError: a value is of a kind that no message can have.
    """
    kind, payload = type(message), getattr(message, "payload", None)
    values = [kind.__name__, *(getattr(message, name) for name in _header_names(kind))]
    _check(kind, values[1:])
    try:
        text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise FederationError(f"{kind.__name__} cannot be sent: {error}") from None
    values.append(blake2b(text.encode() + (payload or b""), digest_size=16).hexdigest())
    text = json.dumps(values, separators=(",", ":"))
    buffers = {} if payload is None else {"payload": np.frombuffer(payload, np.uint8)}
    return bytes(save(buffers, {_KEY: text}))


def decode(data: bytes, limit: int) -> Message:
    """Read what `encode` wrote.

    Args:
        limit: bytes the message may have.

    Raises:
        FederationError: the bytes are too many, or not those that `encode` would write.
    """
    if len(data) > limit:
        raise FederationError(f"the message has {len(data)} bytes, but at most {limit} may come")
    size = int.from_bytes(data[:8], "little")
    if not 2 <= size <= min(len(data) - 8, _HEADER):
        raise FederationError("what arrived is no message of fedtt-lightning, or was cut off")
    try:
        values = json.loads(json.loads(data[8 : 8 + size].decode())["__metadata__"][_KEY])
        kind = _KINDS[values[0]]
        arguments = dict(zip(_header_names(kind), values[1:-1], strict=True))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        raise FederationError("the message's header cannot be read: is it damaged?") from None
    _check(kind, list(arguments.values()))
    if hasattr(kind, "payload"):
        arguments["payload"] = data[8 + size :]
    message = kind(**arguments)
    if encode(message) != data:
        raise FederationError(f"the {kind.__name__} was changed on its way: its hash differs")
    return message


def _header_names(kind: type[Message]) -> list[str]:
    return [field.name for field in fields(kind) if field.name != "payload"]


def _check(kind: type[Message], values: list[Any]) -> None:
    """Raise FederationError unless the values of a header are of the message's types."""
    hints = get_type_hints(kind)
    for name, value in zip(_header_names(kind), values, strict=True):
        if not _fits(value, hints[name], signed=name == "experiment"):
            raise FederationError(
                f"{kind.__name__}'s {name} is {str(value)[:40]!r}: install the same version on "
                "both sides"
            )


def _fits(value: Any, hint: Any, signed: bool) -> bool:
    if hint is int:
        return type(value) is int and (-_LARGEST if signed else -1) < value < _LARGEST
    if hint is str:  # it may end in a terminal or a log
        return type(value) is str and value.isprintable()
    if hint == dict[str, str]:
        return type(value) is dict and all(
            type(v) is str and v.isprintable() for pair in value.items() for v in pair
        )
    if value is None:
        return bool(hint == float | None)
    return type(value) in (int, float) and abs(value) < _LARGEST and isfinite(value)
