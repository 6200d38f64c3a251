"""Datasets of prompts: what they hold, what is shown and refused."""

from __future__ import annotations

import warnings

import pytest
from tokenizers.normalizers import Lowercase

from byte_tokenizer import byte_tokenizer
from fedtt_lightning.data import Prompt
from fedtt_lightning.data.prompt_rows import PromptEncoder
from fedtt_lightning.data.text_data import load_tokenizer
from fedtt_lightning.errors import ConfigError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    return load_tokenizer(str(folder))


def encoder(tokenizer, max_length=60, keep=False):
    return PromptEncoder(tokenizer, max_length, keep, "task")


def choice(*candidates, context="", **options):
    return Prompt(context, "Question: why?", candidates[:1], candidates, 0, **options)


def test_training_rows(tokenizer):
    prompts = [
        choice(" yes", " no", columns={"site": "a"}, where="f:1"),
        choice(" no", " yes", columns={"site": "b"}, where="f:2"),
    ]
    rows = encoder(tokenizer).training_rows(prompts)
    assert (
        rows["label"] == [0, 0] and rows["site"] == ["a", "b"] and rows["where"] == ["f:1", "f:2"]
    )
    texts = [tokenizer.decode(row["input_ids"]) for row in (rows[0], rows[1])]
    assert texts == ["<s>Question: why? yes", "<s>Question: why? no"]
    assert rows.lengths.tolist() == [len(ids) for ids in rows["input_ids"]]
    generated = Prompt("", "Question: why?", (" yes", " no"))
    rows = encoder(tokenizer).training_rows([generated])
    assert tokenizer.decode(rows[0]["input_ids"]) == "<s>Question: why? yes</s>"
    assert rows[0]["labels"][-1] == tokenizer.eos_token_id
    assert "label" not in rows.column_names


def test_candidate_rows(tokenizer):
    prompts = [
        choice(" yes", " no", group="g"),
        Prompt("", "Who?", (" no", " why"), (" yes", " no", " why")),
        Prompt("", "Who?", (), (" yes", " no")),
    ]
    rows = encoder(tokenizer).candidate_rows(prompts)
    assert len(rows) == 3
    assert [tokenizer.decode(row["input_ids"]) for row in rows[1]["candidates"]] == [
        f"<s>Who?{answer}" for answer in (" yes", " no", " why")
    ]
    assert rows[0]["label"] == 0 and rows[0]["group"] == "g" and "gold" not in rows[0]
    assert rows[1]["label"] == -1 and rows[1]["gold"] == ["no", "why"]
    assert rows[1]["answers"] == ["yes", "no", "why"]
    assert "gold" not in rows[2]


def test_question_rows(tokenizer):
    rows = encoder(tokenizer).question_rows(
        [Prompt("no\n", "Who?", (" a", " b")), Prompt("", "W?")]
    )
    assert [tokenizer.decode(rows[i]["input_ids"]) for i in (0, 1)] == ["<s>no\nWho?", "<s>W?"]
    assert [rows[i]["references"] for i in (0, 1)] == [["a", "b"], []]


@pytest.mark.parametrize("keep", [False, True])
def test_cut_contexts_are_counted(tokenizer, caplog, keep):
    """Also when the tokens come out of the cache."""
    prompts = [choice(" yes", context="z" * size) for size in (1, 20, 40, 2)]
    longest = len(encoder(tokenizer).training_rows(prompts[1:2])[0]["input_ids"])
    for _ in range(2):
        caplog.clear()
        with caplog.at_level("INFO"):
            rows = encoder(tokenizer, longest - 10, keep).training_rows(prompts)
        assert rows.lengths.max() == longest - 10
        assert "task: 2 of 4 contexts were cut to fit data.max_length" in caplog.text
        assert "by 20.0 tokens on average" in caplog.text  # 10 and 30
    caplog.clear()
    with caplog.at_level("INFO"):
        encoder(tokenizer, 100).training_rows(prompts)
    assert not caplog.text
    with caplog.at_level("INFO"):
        both = [choice(" yes", " no, no, no", context="z" * size) for size in (1, 40)]
        encoder(tokenizer, longest, keep).candidate_rows(both)
    assert "task: 1 of 2 contexts were cut" in caplog.text


def test_the_cache_tells_apart_what_is_encoded(tokenizer):
    """Rows made with the cache are those made without it, one kind after another."""
    prompts = [choice(" yes", " no", context="the question\n")]
    generated = [Prompt("the question\n", "Question: why?", (" yes",))]
    for keep in (False, True):
        made = encoder(tokenizer, keep=keep)
        assert len(made.candidate_rows(prompts)[0]["candidates"]) == 2
        endless = made.training_rows(prompts)[0]["input_ids"].tolist()
        assert made.training_rows(generated)[0]["input_ids"].tolist() == [
            *endless,
            tokenizer.eos_token_id,
        ]
        question = made.question_rows(generated)[0]["input_ids"].tolist()
        assert question == endless[: len(question)] and len(question) < len(endless)
    shorter = encoder(tokenizer, max_length=len(endless) - 2, keep=True).training_rows(prompts)
    assert len(shorter[0]["input_ids"]) == len(endless) - 2


def test_candidates_that_no_score_tells_apart_are_refused(tokenizer):
    same = choice(" yes", " no", " yes", where="val.jsonl:3")
    with pytest.raises(ConfigError, match=r"val\.jsonl:3: the candidates 'yes' and 'yes' have the"):
        encoder(tokenizer).candidate_rows([choice(" no", " yes"), same])
    unknown = Prompt("", "Who?", (), (" yes", " yes"), 0)
    with pytest.raises(ConfigError, match="no score can tell them apart"):
        encoder(tokenizer).candidate_rows([unknown])
    with pytest.raises(ConfigError, match=r"Question: why\?'?: there are no candidates to"):
        encoder(tokenizer).candidate_rows([Prompt("", "Question: why?", (), ())])


def test_entities_with_the_same_tokens_count_as_one(tokenizer):
    prompts = [
        Prompt("", "Who?", (" why",), (" no", " yes", " no", " why", " no")),
        Prompt("", "Who?", (), (" yes", " no")),
    ]
    for keep in (False, True):
        rows = encoder(tokenizer, keep=keep).candidate_rows(prompts)
        assert rows[0]["answers"] == ["no", "yes", "why"] and rows[0]["gold"] == ["why"]
        assert [tokenizer.decode(row["input_ids"]) for row in rows[0]["candidates"]] == [
            f"<s>Who?{answer}" for answer in (" no", " yes", " why")
        ]
        assert rows[1]["answers"] == ["yes", "no"] and len(rows[1]["candidates"]) == 2


def test_entities_that_differ_in_text_alone_count_as_the_first(tokenizer):
    lower = byte_tokenizer()
    lower.backend_tokenizer.normalizer = Lowercase()
    (row,) = encoder(lower).candidate_rows([Prompt("", "Who?", (" Yes",), (" yes", " Yes", " no"))])
    assert row["answers"] == ["yes", "no"] and row["gold"] == ["Yes"]


def test_a_prefix_is_told_apart_and_a_shared_first_token_warned_of_once(tokenizer):
    alike = [choice(" no", " nono"), choice(" yes", " yesyes")]
    with pytest.warns(
        UserWarning, match="candidates of every example share a first token; whole"
    ) as seen:
        rows = encoder(tokenizer).candidate_rows(alike)
    assert len(seen) == 1 and len(rows) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(tokenizer).candidate_rows([*alike, choice(" yes", " no")])
    some = [choice(" no", " yes", " nono")]
    with pytest.warns(UserWarning, match="share a first token"):
        encoder(tokenizer).candidate_rows(some)


def test_what_cannot_be_trained_on_is_refused(tokenizer):
    with pytest.raises(ConfigError, match=r"test\.jsonl:2: the row has no answer"):
        encoder(tokenizer).training_rows([Prompt("", "Who?", where="test.jsonl:2")])
    bare = byte_tokenizer()
    bare.eos_token = None
    with pytest.raises(ConfigError, match=r"data\.tokenizer has no end token"):
        encoder(bare)
