"""Conversations written as text, in which the assistant's turns are what is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from fedtt_lightning.errors import ConfigError

Message = dict[str, str]
Span = tuple[int, int]
ROLES = ("system", "user", "assistant")
DATE = "26 Jul 2024"
"""The date that LLaMA 3.1's template writes, which would else be the day of tokenizing."""
_MARK = "\ufdd0"  # no character, so that no template writes it


@dataclass(frozen=True)
class Conversation:
    """Messages, each with a `role` and a `content`, of which the last is the assistant's.

    Attributes:
        input: the end of the last user's message that may be cut, from its beginning, to fit.
        where: file and line, for messages.
        columns: further columns of the training data, for partitions.
    """

    messages: tuple[Message, ...]
    input: str = ""
    where: str = ""
    columns: Mapping[str, str | int] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The last reply."""
        return self.messages[-1]["content"].strip()


def check_messages(messages: Any, where: str) -> tuple[Message, ...]:
    """Return messages read from a file, or raise ConfigError saying which is not as it must be."""
    if not isinstance(messages, list) or not messages:
        raise ConfigError(f"{where}: field 'messages' is no list of {{role, content}} objects")
    for number, message in enumerate(messages, 1):
        known = isinstance(message, dict) and message.get("role") in ROLES
        if not known or not isinstance(message.get("content"), str):
            raise ConfigError(
                f"{where}: message {number} must have a 'role' ({', '.join(ROLES)}) and a "
                "'content', a text"
            )
        if message["role"] == "assistant" and not message["content"].strip():
            raise ConfigError(f"{where}: message {number} is blank, so there is nothing to learn")
    if messages[-1]["role"] != "assistant":
        raise ConfigError(
            f"{where}: the last message is the {messages[-1]['role']}'s, but must be the "
            "assistant's: nothing is learned from what nobody answers"
        )
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)


def write_conversation(tokenizer: Any, conversation: Conversation) -> tuple[str, list[Span]]:
    """Return a conversation as text, and where in it the assistant's turns begin and end.

    Written as the tokenizer's chat template does, with `DATE` as its `date_string` if it asks for
    one. Where it has none: the system's message and a blank line; for the user's "### Instruction:"
    on a line of its own, the message, a blank line and "### Response:"; the assistant's message
    and the end token. What ends a turn belongs to it. Raises ConfigError if the template refuses
    the messages or hides where turns begin.
    """
    messages, where = conversation.messages, conversation.where
    text = _write(tokenizer, messages, where)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _write(tokenizer, messages[:index], where, reply=True)
        content = message["content"].strip()
        # A mark in place of the reply: "end" stands in "<|end|>" too.
        marked = (*messages[:index], {**message, "content": _MARK}, *messages[index + 1 :])
        place = _write(tokenizer, marked, where).find(_MARK)
        kept = text.startswith(before) and place >= len(before)
        if not kept or not text.startswith(content, place):
            raise ConfigError(
                f"{where}: the tokenizer's chat template rewrites what was said before, so that "
                "the assistant's turns cannot be told; use another tokenizer or template"
            )
        end = place + len(content)
        tail = _write(tokenizer, marked[: index + 1], where).partition(_MARK)[2]
        spans.append((len(before), end + _common(text[end:], tail)))
    return text, spans


def write_question(tokenizer: Any, conversation: Conversation) -> str:
    """Return a conversation as text up to where its last reply begins."""
    return _write(tokenizer, conversation.messages[:-1], conversation.where, reply=True)


def shorten(tokenizer: Any, conversation: Conversation, over: int) -> Conversation | None:
    """Return a shorter conversation, by about `over` tokens if there is so much to cut, or None.

    The oldest exchange goes first, and where only one is left, the beginning of its `input`; the
    system's message, the last question and the replies to what remains stay whole.
    """
    messages = conversation.messages
    replies = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if len(replies) > 1:
        first = int(messages[0]["role"] == "system")
        return replace(conversation, messages=messages[:first] + messages[replies[0] + 1 :])
    if not conversation.input:
        return None
    encoded = tokenizer(
        conversation.input, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ends = [end for _, end in encoded["offset_mapping"]]
    left = conversation.input[max(ends[over - 1], 1) :].lstrip() if over < len(ends) else ""
    question = messages[-2]["content"].removesuffix(conversation.input) + left
    shorter = (*messages[:-2], {**messages[-2], "content": question.rstrip()}, messages[-1])
    return replace(conversation, messages=shorter, input=left)


def _write(tokenizer: Any, messages: Sequence[Message], where: str, reply: bool = False) -> str:
    """Write messages; with `reply` also what stands before the assistant's next turn."""
    if not tokenizer.chat_template:
        return "".join(_plainly(tokenizer, m["role"], m["content"].strip()) for m in messages)
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=reply, date_string=DATE
        )
    except TemplateError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{where}: the tokenizer's chat template refuses it: {reason}") from None
    return str(text)


def _plainly(tokenizer: Any, role: str, content: str) -> str:
    if role == "user":
        return f"### Instruction:\n{content}\n\n### Response:\n"
    return content + (tokenizer.eos_token if role == "assistant" else "\n\n")


def _common(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
