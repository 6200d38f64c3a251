"""What `serve` and its relay say to each other comes back as it was said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.silo.relay import (
    OVERHEAD,
    Forget,
    ListNodes,
    Poll,
    Send,
    read_command,
    read_nodes,
    read_reply,
    write_command,
    write_nodes,
    write_reply,
)
from fedtt_lightning.silo.transport import Failure

NODES = st.integers(0, 2**64 - 1)
SECONDS = st.floats(0, 1e6)


@given(st.one_of(st.builds(Send, NODES, SECONDS, st.binary()), st.builds(Poll, SECONDS)))
def test_commands(command: Send | Poll) -> None:
    frame = write_command(command)
    assert read_command(frame) == command
    assert len(frame) <= OVERHEAD + len(getattr(command, "payload", b""))


def test_commands_without_arguments() -> None:
    assert [read_command(write_command(c)) for c in (ListNodes(), Forget())] == [
        ListNodes(),
        Forget(),
    ]
    with pytest.raises(ValueError, match="no command"):
        read_command(b"x")


@given(st.lists(NODES))
def test_nodes(nodes: list[int]) -> None:
    assert read_nodes(write_nodes(nodes)) == nodes


@given(NODES, st.one_of(st.binary(), st.builds(Failure, st.text())))
def test_replies(node: int, result: bytes | Failure) -> None:
    frame = write_reply(node, result)
    assert read_reply(frame) == (node, result)
    assert isinstance(result, Failure) or len(frame) <= OVERHEAD + len(result)


def test_no_reply() -> None:
    assert read_reply(b"") is None
