"""Conversations as text and tokens: which are learned, and what goes when they are too long."""

import pytest

from byte_tokenizer import byte_tokenizer
from fedtt_lightning.data.chat import (
    Conversation,
    check_messages,
    shorten,
    write_conversation,
    write_question,
)
from fedtt_lightning.data.chat_rows import ChatEncoder
from fedtt_lightning.errors import ConfigError

# As ChatML is written, with generation prompt; the second also as Qwen 3: the last reply alone
# begins with thoughts that are empty.
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}"
    "{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
CHAT = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": " why yes?"},
    {"role": "assistant", "content": "no. "},
    {"role": "user", "content": "why no?"},
    {"role": "assistant", "content": "yes"},
)


def tokenizer(template=None):
    made = byte_tokenizer()
    made.chat_template = template
    return made


def encoded(tokens, conversation, max_length=500):
    rows = ChatEncoder(tokens, max_length, keep=False).training_rows([conversation])
    ids, labels = rows["input_ids"][0], rows["labels"][0]
    assert [label for label in labels if label != -100] == [
        token for token, label in zip(ids, labels, strict=True) if label == token
    ]
    return ids, labels


def learned(tokens, labels):
    """The learned runs of tokens as text."""
    runs, open_run = [], []
    for label in [*labels, -100]:
        if label >= 0:
            open_run.append(label)
        elif open_run:
            runs.append(tokens.decode(open_run))
            open_run = []
    return runs


def test_plain_text_without_a_chat_template():
    tokens = tokenizer()
    text, spans = write_conversation(tokens, Conversation(CHAT))
    assert text == (
        "Be kind.\n\n### Instruction:\nwhy yes?\n\n### Response:\nno.</s>"
        "### Instruction:\nwhy no?\n\n### Response:\nyes</s>"
    )
    assert [text[begin:end] for begin, end in spans] == ["no.</s>", "yes</s>"]
    ids, labels = encoded(tokens, Conversation(CHAT))
    assert ids == tokens(text)["input_ids"] and ids[0] == tokens.bos_token_id
    assert learned(tokens, labels) == ["no.</s>", "yes</s>"]
    question = write_question(tokens, Conversation(CHAT))
    assert text == question + "yes</s>"


@pytest.mark.parametrize("template", [CHATML, THINKING])
def test_the_chat_template_of_the_tokenizer(template):
    tokens = tokenizer(template)
    conversation = Conversation(CHAT)
    ids, labels = encoded(tokens, conversation)
    text = tokens.apply_chat_template(list(CHAT), tokenize=False)
    assert ids == tokens(text, add_special_tokens=False)["input_ids"]
    last = "<think></think>yes<|end|>\n" if template is THINKING else "yes<|end|>\n"
    assert learned(tokens, labels) == ["no.<|end|>\n", last]
    question = write_question(tokens, conversation)
    assert text == question + last
    rows = ChatEncoder(tokens, 500, keep=False).question_rows([conversation])
    assert rows[0]["references"] == ["yes"]
    assert rows[0]["input_ids"].tolist() == tokens(question, add_special_tokens=False)["input_ids"]


def test_a_template_with_a_date_writes_the_same_on_any_day():
    """As LLaMA 3's does."""
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    dated += "{% endif %}Today is {{ date_string }}.\n"
    text, _ = write_conversation(tokenizer(dated + CHATML), Conversation(CHAT))
    assert text.startswith("Today is 26 Jul 2024.\n<|system|>")


@pytest.mark.parametrize("template", [None, CHATML, THINKING])
@pytest.mark.parametrize("reply", ["s", "end", "nk", "</s", "|"])
def test_a_reply_that_stands_in_what_surrounds_it_is_learned_with_its_end(template, reply):
    tokens = tokenizer(template)
    chat = (CHAT[1], {"role": "assistant", "content": reply}) * 2
    text, spans = write_conversation(tokens, Conversation(chat))
    last = "<think></think>" if template is THINKING else ""
    end = "<|end|>\n" if template else "</s>"
    assert [text[begin:end] for begin, end in spans] == [f"{reply}{end}", f"{last}{reply}{end}"]


def test_a_template_that_refuses_or_rewrites_is_named():
    conversation = Conversation(CHAT, where="a.jsonl:3")
    with pytest.raises(ConfigError, match=r"a\.jsonl:3: the .* template refuses it: no system"):
        write_conversation(tokenizer(NO_SYSTEM + CHATML), conversation)
    shouting = CHATML.replace("trim", "trim | upper")
    with pytest.raises(ConfigError, match=r"a\.jsonl:3: .* rewrites what was said"):
        write_conversation(tokenizer(shouting), conversation)
    counting = "{{ messages | length }}" + CHATML
    with pytest.raises(ConfigError, match=r"a\.jsonl:3: .* rewrites what was said"):
        write_conversation(tokenizer(counting), conversation)


def test_the_oldest_exchange_goes_first_and_the_system_stays():
    tokens = tokenizer()
    shorter = shorten(tokens, Conversation(CHAT), 1)
    assert shorter.messages == (CHAT[0], *CHAT[3:])
    assert shorten(tokens, shorter, 1) is None
    whole, _ = encoded(tokens, Conversation(CHAT))
    short, labels = encoded(tokens, shorter)
    assert encoded(tokens, Conversation(CHAT), len(whole) - 1) == (short, labels)
    with pytest.raises(
        ConfigError, match=rf"x:1: .* takes {len(short)} tokens, more than data.max"
    ):
        encoded(tokens, Conversation(CHAT, where="x:1"), len(short) - 1)


@pytest.mark.parametrize("template", [None, CHATML])
def test_an_input_loses_its_beginning_and_never_what_is_asked(template, caplog):
    tokens = tokenizer(template)
    given = "yes or no? " * 12 + "the end"
    messages = (
        {"role": "user", "content": f"why is it so?\n\n{given}"},
        {"role": "assistant", "content": "the answer is no."},
    )
    conversation = Conversation(messages, given)
    whole, _ = encoded(tokens, conversation)
    without = encoded(
        tokens, Conversation(({**messages[0], "content": "why is it so?"}, messages[1]))
    )
    for length in range(len(whole) - 1, len(without[0]) + 1, -7):
        with caplog.at_level("INFO"):
            ids, labels = encoded(tokens, conversation, length)
        assert "1 of 1 conversations were shortened" in caplog.text
        text = tokens.decode(ids)
        assert length - 4 <= len(ids) <= length  # seams may join tokens
        assert "why is it so?" in text and "end" in text
        assert learned(tokens, labels) == learned(tokens, without[1])
    assert encoded(tokens, conversation, len(without[0])) == without


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "field 'messages' is no list"),
        ([], "field 'messages' is no list"),
        (["hello"], r"message 1 must have a 'role' \(system, user, assistant\) and a 'content'"),
        ([{"role": "bot", "content": "a"}], "message 1 must have a 'role'"),
        ([{"role": "user"}], "message 1 must have a 'role'"),
        ([*CHAT[1:2], {"role": "assistant", "content": " "}], "message 2 is blank"),
        (list(CHAT[:2]), "the last message is the user's"),
    ],
)
def test_messages_that_are_not_as_they_must_be(messages, message):
    with pytest.raises(ConfigError, match=f"f:7: {message}"):
        check_messages(messages, "f:7")


def test_a_tokenizer_without_an_end_token_is_refused():
    tokens = tokenizer()
    tokens.eos_token = None
    with pytest.raises(ConfigError, match="no end token"):
        ChatEncoder(tokens, 50, keep=False)
