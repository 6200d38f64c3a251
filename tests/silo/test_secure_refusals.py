"""What halves of secure aggregation refuse, so that nobody learns more than a sum."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cryptography")
pytest.importorskip("Crypto")

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.secure_client import SecureClient
from fedtt_lightning.silo.secure_crypto import SECRET, KeyPair, join_secret, split_secret
from fedtt_lightning.silo.secure_letters import (
    LETTER,
    read_book,
    read_integers,
    read_records,
    write_book,
    write_clients,
    write_records,
)
from silo.secure_round import SecureRound, vectors

ROWS = vectors([0, 1, 2, 3])


def reveal_book(round: SecureRound) -> tuple[int, dict[int, bytes]]:
    round.until("shares")
    return read_book(round.server.book())


def test_a_second_request_to_reveal_is_refused() -> None:
    round = SecureRound(ROWS, {3: "masked"})
    round.total()
    for survivors in ([0, 1, 2], [0, 1, 2, 3]):
        with pytest.raises(
            FederationError, match="stage 4 of secure aggregation was asked for out of turn"
        ):
            round.clients[0].reveal(write_clients(survivors))


def test_a_request_that_was_refused_ends_the_round() -> None:
    round = SecureRound(ROWS).until("revealed")
    with pytest.raises(FederationError, match="has 2 clients, but needs 3"):
        round.clients[0].reveal(write_clients([0, 1]))
    with pytest.raises(
        FederationError, match="stage 4 of secure aggregation was asked for out of turn"
    ):
        round.clients[0].reveal(write_clients([0, 1, 2, 3]))


@pytest.mark.parametrize(
    ("survivors", "message"),
    [
        ([0, 2], "has 2 clients, but needs 3"),
        ([0, 1, 2, 7], "names client 7, who has no part"),
        ([1, 2, 3], "this client's vector is not in the secure sum"),
    ],
)
def test_sums_that_a_client_does_not_unmask(survivors: list[int], message: str) -> None:
    round = SecureRound(ROWS).until("revealed")
    with pytest.raises(FederationError, match=message):
        round.clients[0].reveal(write_clients(survivors))


def test_a_client_that_shared_nothing_cannot_be_in_the_sum() -> None:
    round = SecureRound(ROWS, {3: "shares"}).until("revealed")
    with pytest.raises(FederationError, match="names client 3, who has no part"):
        round.clients[0].reveal(write_clients([0, 1, 2, 3]))


def test_seed_and_private_key_of_one_client_are_never_both_revealed() -> None:
    """The shares of one client's reveals are those of seeds of the sum, and keys of the rest."""
    round = SecureRound(ROWS, {3: "masked"})
    round.total()
    shares = {
        client: [answer[i : i + SECRET] for i in range(0, len(answer), SECRET)]
        for client, answer in round.sent["revealed"].items()
    }
    for other, half in round.clients.items():
        found = join_secret({client: rows[other] for client, rows in shares.items()})
        assert found == (half._masking.secret if other == 3 else half._seed)
        assert all(len(rows) == 4 for rows in shares.values())


@pytest.mark.parametrize(
    ("needed", "members", "message"),
    [
        (2, [0, 1, 2, 3], "needs more than half of them and 2 or more, not 2"),
        (5, [0, 1, 2, 3], "more than half of them and 2 or more, not 5"),
        (1, [0], "2 or more, not 1"),
        (3, [1, 2, 3], "lacks this client's own keys"),
    ],
)
def test_books_with_too_few_or_without_oneself(
    needed: int, members: list[int], message: str
) -> None:
    round = SecureRound(ROWS)
    _, keys = reveal_book(round)
    with pytest.raises(FederationError, match=message):
        round.clients[0].share(write_book(needed, {c: keys[c] for c in members}))


def test_a_client_may_ask_for_more_than_half() -> None:
    round = SecureRound(ROWS)
    round.clients[0] = SecureClient(0, 9, b"round 3", fewest=4)
    needed, keys = reveal_book(round)
    with pytest.raises(FederationError, match="half of them and 4 or more, not 3"):
        round.clients[0].share(write_book(needed, keys))


def test_books_with_strangers_or_a_key_twice() -> None:
    round = SecureRound(ROWS)
    needed, keys = reveal_book(round)
    with pytest.raises(FederationError, match="names client 9 of 9"):
        round.clients[0].share(write_book(needed, {**keys, 9: bytes(64)}))
    with pytest.raises(FederationError, match="holds a public key twice"):
        round.clients[1].share(write_book(needed, {**keys, 3: keys[2][:32] + keys[3][32:]}))
    with pytest.raises(FederationError, match="a public key that another one has"):
        round.server.add_keys(4, keys[3])


def test_a_public_key_of_no_use_is_refused() -> None:
    round = SecureRound(ROWS)
    needed, keys = reveal_book(round)
    with pytest.raises(FederationError, match="a public key of secure aggregation is none"):
        round.clients[0].share(write_book(needed, {**keys, 3: keys[3][:32] + bytes(32)}))


@pytest.mark.parametrize("fault", ["flipped", "exchanged", "of another"])
def test_letters_that_were_changed_or_mixed_up(fault: str) -> None:
    round = SecureRound(ROWS).until("masked")
    letters = read_records(round.server.mail(0), LETTER)
    letters[1] = {
        "flipped": bytes([letters[1][0] ^ 1]) + letters[1][1:],
        "exchanged": letters[2],
        "of another": read_records(round.server.mail(2), LETTER)[1],
    }[fault]
    with pytest.raises(FederationError, match="cannot be opened"):
        round.clients[0].masked(write_records(letters), ROWS[0], 32)


def test_letters_of_one_round_are_of_no_use_in_another() -> None:
    round, other = SecureRound(ROWS).until("masked"), SecureRound(ROWS).until("masked")
    with pytest.raises(FederationError, match="cannot be opened"):
        round.clients[0].masked(other.server.mail(0), ROWS[0], 32)


def test_wrong_shares_give_no_sum() -> None:
    for vanish, other in (({}, 1), ({3: "masked"}, 3)):
        round = SecureRound(ROWS, vanish).until("revealed")
        survivors = round.server.survivors()
        for client in round.left("revealed"):
            answer = bytearray(round.clients[client].reveal(survivors))
            answer[other * SECRET + 5] ^= client == 2  # of a key, bits of byte 0 play no part
            round.server.add_revealed(client, bytes(answer))
        if not vanish:  # the first three shares are taken
            round.server._revealed.pop(3)
        with pytest.raises(FederationError, match=f"client {other}'s secret does not fit: no sum"):
            round.server.total()


def test_a_private_key_and_its_shares() -> None:
    pair = KeyPair()
    shares = split_secret(pair.secret, 3, 5)
    assert KeyPair(join_secret({4: shares[4], 0: shares[0], 2: shares[2]})).public == pair.public
    assert join_secret({4: shares[4], 0: shares[0]}) != pair.secret


def test_stages_come_in_order() -> None:
    half = SecureRound(ROWS).clients[0]
    for stage, call in (
        (2, lambda: half.share(b"")),
        (3, lambda: half.masked(b"", ROWS[0], 32)),
        (4, lambda: half.reveal(b"")),
    ):
        with pytest.raises(FederationError, match=f"stage {stage} of secure aggregation was asked"):
            call()


@pytest.mark.parametrize("data", [bytes(3), write_clients([2])[:3] + bytes(2), b"\1" * 70])
def test_bytes_that_are_no_answer(data: bytes) -> None:
    round = SecureRound(ROWS).until("masked")
    server, half = round.server, round.clients[0]
    for call in (
        lambda: server.add_keys(5, data),
        lambda: server.add_shares(0, data),
        lambda: server.add_masked(0, data),
        lambda: server.add_revealed(0, data),
        lambda: half.masked(data, ROWS[0], 32),
        lambda: SecureRound(ROWS).clients[1].share(data),
    ):
        with pytest.raises(FederationError):
            call()


class Damaging:
    """A half to which one message comes damaged: the one that is `count[0]` further on."""

    def __init__(self, half: Any, count: list[int], damage: Callable[[bytes], bytes]) -> None:
        self._half, self._count, self._damage = half, count, damage

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._half, name)
        if not callable(value):
            return value

        def call(*arguments: Any) -> Any:
            changed = []
            for argument in arguments:
                if isinstance(argument, bytes):
                    self._count[0] -= 1
                    argument = self._damage(argument) if self._count[0] == 0 else argument
                changed.append(argument)
            return value(*changed)

        return call


@settings(deadline=None, max_examples=150)
@given(
    count=st.integers(1, 28),
    gone=st.booleans(),
    place=st.integers(0, 10**6),
    other=st.none() | st.binary(max_size=100),
)
def test_damage_ends_in_a_sum_or_an_error(
    count: int, gone: bool, place: int, other: bytes | None
) -> None:
    """A bit of any message that passes is flipped, or other bytes come in its place."""

    def damage(data: bytes) -> bytes:
        if other is not None or not data:
            return other or b""
        flipped = bytearray(data)
        flipped[place % len(data)] ^= 1 << place % 8
        return bytes(flipped)

    round, left = SecureRound(ROWS, {3: "masked"} if gone else {}), [count]
    round.server = Damaging(round.server, left, damage)  # type: ignore[assignment]
    for client, half in round.clients.items():
        round.clients[client] = Damaging(half, left, damage)  # type: ignore[assignment]
    with suppress(FederationError):
        assert len(round.total()) == 5


def test_lists_of_clients_and_integers() -> None:
    with pytest.raises(FederationError, match="out of order or repeated"):
        read_records(write_clients([3]) + write_clients([3]), 0)
    with pytest.raises(FederationError, match="more than 20 bits"):
        read_integers(b"\0\0\x10" * 2, 20, 2)
    assert read_integers(b"\1\0\0\2\0\x0f", 20, 2).tolist() == [1, 0xF0002]
