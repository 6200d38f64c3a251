"""Prompts as tokens: those of the whole text, of which only the context is ever cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from byte_tokenizer import byte_tokenizer
from fedtt_lightning.data import Prompt
from fedtt_lightning.data.prompts import common, encode_answers, encode_questions, to_lists
from fedtt_lightning.errors import ConfigError

TOKENIZERS = {
    "begins": byte_tokenizer(),
    "bare": byte_tokenizer(begins=False),
    "ends": ByT5Tokenizer(),  # in Python, one token a byte, and an end token after every text
}
TEXT = st.text(st.sampled_from("yes no.?\nAnswer é→"), max_size=30)
named = pytest.mark.parametrize("name", TOKENIZERS)


def rows(column):
    starts = column.starts.tolist()
    return [column.values[a:b].tolist() for a, b in pairwise(starts)]


def encode(tokenizer, prompt, answer, max_length=500, end=False):
    columns = encode_answers(tokenizer, [prompt], [[answer]], max_length, end)
    return (rows(columns[name])[0] for name in ("input_ids", "labels", "cut"))


def plain(tokenizer, text):
    """The tokens of a text without an end token."""
    ids = tokenizer(text)["input_ids"]
    return ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids


@named
@pytest.mark.parametrize("end", [False, True])
def test_tokens_are_those_of_the_whole_text_and_labels_the_answer(name, end):
    tokenizer = TOKENIZERS[name]
    prompt = Prompt("The answer is yes.\n", "Question: why?\nAnswer:")
    ids, labels, cut = encode(tokenizer, prompt, " yes", end=end)
    eos = [tokenizer.eos_token_id] * end
    assert ids == plain(tokenizer, "The answer is yes.\nQuestion: why?\nAnswer: yes") + eos
    answer = [label for label in labels if label != -100]
    assert answer == ids[-len(answer) :] and labels[: -len(answer)] == [-100] * (
        len(ids) - len(answer)
    )
    assert tokenizer.decode(answer[: len(answer) - end]) == " yes"
    assert cut == [0]


@named
@settings(max_examples=60, deadline=None)
@given(context=TEXT, question=TEXT, answer=TEXT.filter(bool), max_length=st.integers(1, 60))
def test_cutting_never_touches_question_or_answer(name, context, question, answer, max_length):
    tokenizer = TOKENIZERS[name]
    whole = plain(tokenizer, context + question + answer)
    first = int(name == "begins")
    context_alone = plain(tokenizer, context)
    shared = common(context_alone, whole)
    prompt = Prompt(context, question)
    if len(whole) - max_length > max(shared - first, 0):
        with pytest.raises(ConfigError, match=rf"data\.max_length={max_length};"):
            encode(tokenizer, prompt, answer, max_length)
        return
    ids, labels, (cut,) = encode(tokenizer, prompt, answer, max_length)
    assert len(ids) == len(labels) == min(len(whole), max_length)
    assert cut == len(whole) - len(ids) <= max(shared - first, 0)
    assert ids == whole[:first] + whole[first + cut :]
    kept = tokenizer.decode(ids[first:])
    if cut == 0:
        assert kept == context + question + answer
    if "�" not in kept[:3]:  # the cut may fall within a character
        assert kept.endswith(question + answer) and (context + question + answer).endswith(kept)
    learned = tokenizer.decode([label for label in labels if label != -100])
    assert learned.endswith(answer) and kept.endswith(learned)


@settings(max_examples=60, deadline=None)
@given(context=TEXT, question=TEXT.filter(bool), max_length=st.integers(1, 40))
def test_what_is_gone_on_from_is_what_training_has_before_the_answer(context, question, max_length):
    tokenizer = TOKENIZERS["begins"]
    prompt = Prompt(context, f"{question}Answer:")
    try:
        ids = rows(encode_questions(tokenizer, [prompt], max_length)["input_ids"])[0]
    except ConfigError:
        return
    longer = max_length + len(plain(tokenizer, " yes")) - 1
    trained, labels, _ = encode(tokenizer, prompt, " yes", longer)
    assert trained[: len(ids)] == ids
    assert labels[: len(ids)] == [-100] * len(ids) and -100 not in labels[len(ids) :]


def test_a_prompt_that_cannot_fit_is_named_with_its_place():
    prompt = Prompt("cut this", "Question: why?", where="val.jsonl:7")
    with pytest.raises(ConfigError, match=r"val\.jsonl:7: .* more than data\.max_length=3"):
        encode(TOKENIZERS["bare"], prompt, " yes", 3)
    with pytest.raises(ConfigError, match=r"the example 'Question: why\?': the answer '' has no"):
        encode(TOKENIZERS["bare"], Prompt("", "Question: why?"), "")


def test_all_answers_of_a_prompt_follow_the_same_context():
    tokenizer = TOKENIZERS["ends"]
    columns = encode_answers(
        tokenizer,
        [Prompt("abcdefgh", "?"), Prompt("x", "?")],
        [["y", "yyyy"], ["y"]],
        10,
        end=False,
    )
    texts = [tokenizer.decode(ids) for ids in rows(columns["input_ids"])]
    assert texts == ["defgh?y", "defgh?yyyy", "x?y"]
    assert rows(columns["cut"]) == [[3], [3], [0]]


def test_thousands_of_prompts_keep_their_order():
    tokenizer = TOKENIZERS["bare"]
    prompts = [Prompt(f"{i}\n", "?") for i in range(2001)]
    answers = [[f" {i}", " no"] if i % 2 else [] for i in range(2001)]
    columns = encode_answers(tokenizer, prompts, answers, 30, end=False)
    texts = [tokenizer.decode(ids) for ids in rows(columns["input_ids"])]
    assert texts == [f"{i}\n?{a}" for i in range(1, 2001, 2) for a in (f" {i}", " no")]


@given(st.lists(st.lists(st.integers(-100, 2**31 - 1), max_size=5)))
def test_lists_are_kept(values):
    assert rows(to_lists(values)) == values
