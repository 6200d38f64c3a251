"""The server's side against silos whose answers are known: what counts, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.silo.messages import Done, NeedsAll, Refused, Train, Update
from fedtt_lightning.silo.payloads import unpack_names
from silo.scripted_federation import ALL, Between, Federation, same
from silo.scripted_silo import ScriptedSilo
from toy_run import ROUNDS


def test_updates_of_silos_are_averaged_and_only_what_changed_is_sent(
    federation: Federation,
) -> None:
    found, record = federation.serve()
    assert same(found, federation.expected([ALL] * ROUNDS))
    asks = federation.silos[2].asks()
    names = tuple(federation.start())
    sent = [unpack_names(ask.changed, names) for ask in asks]
    trained = [unpack_names(ask.trained, names) for ask in asks]
    assert sent == [frozenset(names), trained[0], trained[1]]
    assert isinstance(federation.silos[2].heard[-1], Done)
    assert record.rounds[2]["fed/clients"] == 4
    total = sum(federation.examples)
    loss = sum(n * client for client, n in enumerate(federation.examples)) / total
    assert record.rounds[1]["fed/train_loss"] == pytest.approx(loss)


def test_bytes_are_those_of_the_simulation_and_a_little_for_each_message(
    federation: Federation,
) -> None:
    _, record = federation.serve()
    last = record.rounds[2]
    for way in ("upload", "download"):
        more = last[f"comm/wire_{way}_bytes"] - last[f"comm/{way}_bytes"]
        assert 0 < more < 4 * 400


def with_tensors(silo: ScriptedSilo, ask: Train, change: Callable[[Tensor], Tensor]) -> Update:
    before = silo.tensors
    silo.tensors = {name: change(tensor) for name, tensor in before.items()}
    answer = silo.update(ask)
    silo.tensors = before
    return answer


WRONG: list[tuple[Callable[[ScriptedSilo, Train], Any], str]] = [
    (lambda silo, ask: b"\x00garbage", "no message of fedtt-lightning"),
    (lambda silo, ask: replace(silo.update(ask), client=0), "answered as client 0"),
    (lambda silo, ask: replace(silo.update(ask), round=7), "answered for round 8"),
    (lambda silo, ask: replace(silo.update(ask), run="other"), "of run other"),
    (lambda silo, ask: replace(silo.update(ask), examples=10**6), "trained on 1000000 examples"),
    (lambda silo, ask: replace(silo.update(ask), payload=b""), "no safetensors"),
    (lambda silo, ask: with_tensors(silo, ask, torch.Tensor.float), "payload's schema"),
    (lambda silo, ask: with_tensors(silo, ask, lambda t: t + 100), "serve.max_update_norm is 50"),
    (lambda silo, ask: with_tensors(silo, ask, lambda t: t * torch.nan), ""),
    (lambda silo, ask: NeedsAll(ask.run, ask.round), "needs all of the adapter"),
    (lambda silo, ask: Done(ask.run), "answered Done to Train"),
    (lambda silo, ask: Refused("on strike"), "on strike"),
]


def test_an_answer_that_was_not_asked_for_is_rejected_and_harms_nobody(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    silo = federation.silos[1]
    silo.reply = lambda ask: WRONG[ask.round][0](silo, ask)
    found, record = federation.serve(max_update_norm=50, rounds=len(WRONG))
    assert same(found, federation.expected([[0, 2, 3]] * len(WRONG)))
    for metrics in record.rounds.values():
        assert (metrics["fed/clients"], metrics["fed/clients_rejected"]) == (3, 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "is rejected" in line]
    words = [words for _, words in WRONG if words]
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True))


def test_a_silo_that_answers_too_late_is_left_out_and_asked_again(federation: Federation) -> None:
    silo = federation.silos[3]
    silo.reply = lambda ask: None if ask.round == 0 else silo.update(ask)
    found, record = federation.serve(round_deadline=2)
    assert same(found, federation.expected([[0, 1, 2], ALL, ALL]))
    assert [record.rounds[r]["fed/clients_late"] for r in range(ROUNDS)] == [1, 0, 0]
    assert record.rounds[0]["fed/clients_dropped"] == 0


def test_a_round_without_any_answer_changes_nothing(federation: Federation) -> None:
    for silo in federation.silos:
        silo.reply = lambda ask, silo=silo: b"" if ask.round == 1 else silo.update(ask)
    found, record = federation.serve()
    assert same(found, federation.expected([ALL, [], ALL]))
    assert record.rounds[1]["fed/clients"] == 0


def test_too_few_answers_end_the_run_if_so_asked(federation: Federation) -> None:
    for silo in federation.silos[2:]:
        silo.reply = lambda ask, silo=silo: silo.update(ask) if ask.round == 0 else None
    closing = Between({0: federation.silos[1].close})
    with pytest.raises(FederationError, match=r"1 usable updates \(1 clients dropped out, 2 late"):
        federation.serve(
            closing,
            federation={"min_clients": 2, "below_min_clients": "fail"},
            round_deadline=2,
        )


def test_a_silo_that_lost_its_adapter_gets_all_of_it(federation: Federation) -> None:
    silo, names = federation.silos[0], tuple(federation.start())

    def reply(ask: Train) -> Update | NeedsAll:
        if ask.round == 2 and unpack_names(ask.changed, names) != frozenset(names):
            return NeedsAll(ask.run, ask.round)
        return silo.update(ask)

    silo.reply = reply
    found, _ = federation.serve()
    assert same(found, federation.expected([ALL] * ROUNDS))
    assert len(silo.asks()) == ROUNDS + 1


def test_a_silo_with_other_settings_is_refused_and_told_the_difference(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    other = federation.silos[2].here.settings
    other["federation.local_epochs and federation.local_steps"] = "local_epochs 7"
    found, record = federation.serve(join_timeout=1)
    assert same(found, federation.expected([[0, 1, 3]] * ROUNDS))
    assert record.rounds[0]["fed/clients_dropped"] == 1
    (told, *_) = [m.reason for m in federation.silos[2].heard if isinstance(m, Refused)]
    assert "client 2 has local_epochs 7: use the same federation.local_epochs" in told
    out = capsys.readouterr().out
    assert out.count(f"client 2 is refused: {told}") == 1


def test_silos_that_never_come_end_the_start(federation: Federation) -> None:
    federation.silos[1].close()
    federation.silos[3].here = replace(federation.silos[3].here, version="0.0.1")
    with pytest.raises(FederationError) as error:
        federation.serve(join_timeout=1)
    message = str(error.value)
    assert message.startswith("silos are missing after serve.join_timeout=1 seconds: client 1: ")
    assert "client 3: it has fedtt-lightning 0.0.1" in message


def test_a_server_goes_on_where_it_was_stopped(federation: Federation) -> None:
    def stop() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        federation.serve(Between({1: stop}))
    assert not any(isinstance(message, Done) for message in federation.silos[0].heard)
    found, _ = federation.serve()
    assert same(found, federation.expected([ALL] * ROUNDS))
    assert [ask.round for ask in federation.silos[0].asks()] == [0, 1, 1, 2]
    assert len({ask.run for ask in federation.silos[0].asks()}) == 1


def test_a_restarted_server_needs_no_silo_that_it_knows(federation: Federation) -> None:
    def stop() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        federation.serve(Between({0: stop}))
    federation.silos[3].close()
    found, _ = federation.serve(join_timeout=0.1)
    assert same(found, federation.expected([[0, 1, 2]] * ROUNDS))


def test_a_checkpoint_of_another_run_is_refused(federation: Federation) -> None:
    federation.serve(rounds=1)
    (federation.folder / "server" / "federation.json").unlink()
    with pytest.raises(ConfigError, match="the checkpoint is of run"):
        federation.serve(rounds=1)


LESS = (
    "its privacy has cost epsilon 0.5 so far, but 3 before: give it back the trainer.default_root"
)


def test_a_silo_that_has_spent_less_than_before_is_refused(federation: Federation) -> None:
    def forget(ask: Train) -> Update:
        epsilon = [3.0, 0.5, 1.0][ask.round]
        silo.here = replace(silo.here, epsilon=epsilon)
        return replace(silo.update(ask), epsilon=epsilon)

    silo = federation.silos[2]
    silo.reply = forget
    found, record = federation.serve()
    assert same(found, federation.expected([ALL, [0, 1, 3], [0, 1, 3]]))
    assert [record.rounds[r]["fed/clients_rejected"] for r in range(ROUNDS)] == [0, 1, 0]
    assert record.rounds[2]["dp/silo_epsilon_max"] == 3
    (told,) = [message.reason for message in silo.heard if isinstance(message, Refused)]
    assert LESS in told and len(silo.asks()) == 2


def test_a_server_that_is_started_again_knows_what_silos_have_spent(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise RuntimeError

    silo = federation.silos[2]
    silo.reply = lambda ask: replace(silo.update(ask), epsilon=3.0)
    with pytest.raises(RuntimeError):
        federation.serve(Between({1: stop}))
    silo.here = replace(silo.here, epsilon=0.5)
    found, _ = federation.serve(join_timeout=0.5)
    assert same(found, federation.expected([ALL, [0, 1, 3], [0, 1, 3]]))
    assert f"client 2 is refused: it says that {LESS}" in capsys.readouterr().out
