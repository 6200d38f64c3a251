"""Scores of candidates equal forward passes over one prefix at a time, wherever padding stands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from answer_rows import Row, answer_rows, padded, token_by_token
from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.modules import CausalLM
from fedtt_lightning.modules.answer_loss import Likelihood
from fedtt_lightning.modules.answer_scores import gold_losses, right_candidates, score_table
from fedtt_lightning.modules.text_match import squad_match

COUNTS = [2, 3, 2]


def examples() -> list[list[Row]]:
    """Three prompts of different length, each with candidates of different length."""
    rng = torch.Generator().manual_seed(4)
    found = []
    for prompt, (ids, _) in enumerate(answer_rows(3, seed=2)):
        answers = [torch.randint(3, 60, (1 + (i + prompt) % 3,), generator=rng) for i in range(3)]
        rows = [(torch.cat([ids, answer]), len(answer)) for answer in answers]
        found.append(rows[: COUNTS[prompt]])
    return found


def choice_batch(side: str = "right", extra: int = 0) -> dict[str, torch.Tensor]:
    rows = [row for group in examples() for row in group]
    return {
        **padded(rows, side, extra),
        "owner": torch.repeat_interleave(torch.tensor(COUNTS)),
        "candidate": torch.cat([torch.arange(count) for count in COUNTS]),
        "label": torch.tensor([1, 2, -1]),
    }


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gpt_neox", "qwen3"])
def test_scores_equal_one_prefix_at_a_time(decoder: Callable[..., str], family: str) -> None:
    config = TTAdapterConfig(rank=2, bottleneck=8, init="loretta")
    module = CausalLM(decoder(family), config, task="boolq", dtype="float32").double().eval()
    expected = []
    for group in examples():
        by_token = [token_by_token(module.model, row) for row in group]
        expected.append([sum(row) / len(row) for row in by_token])
    for side, extra in (("right", 0), ("left", 0), ("right", 5), ("left", 3)):
        result = module.predict_step(choice_batch(side, extra), 0)
        for found, scores in zip(result["scores"], expected, strict=True):
            assert found == pytest.approx(scores, abs=1e-9)
    best = [max(range(len(scores)), key=scores.__getitem__) for scores in expected]
    assert result["prediction"] == best
    right = [float(choice == label) for choice, label in zip(best, [1, 2, -1], strict=True)]
    assert module.score(choice_batch()).tolist() == right


def test_longer_answers_are_divided_by_their_tokens_and_ties_go_to_the_first() -> None:
    nll, tokens = torch.tensor([4.0, 2.0, 1.0, 6.0, 3.0]), torch.tensor([4, 2, 1, 3, 3])
    owner, candidate = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 1, 2, 0, 1])
    table = score_table(Likelihood(nll, tokens), owner, candidate, 2)
    assert table.tolist() == [[-1, -1, -1], [-2, -1, -torch.inf]]
    assert table.argmax(1).tolist() == [0, 1]
    for label, losses in (([2, 0], [1, 2]), ([-1, 1], [1]), ([-1, -1], [])):
        right = right_candidates({"label": torch.tensor(label)}, 3)
        assert gold_losses(table, right).tolist() == losses


def test_several_candidates_may_be_right_and_the_likeliest_of_them_counts() -> None:
    batch = {
        "label": torch.tensor([-1, -1, -1]),
        "answers": [["Ann Lee", "Bob", "the Ann-Lee!"], ["Rome", "Oslo"], ["Rome"]],
        "gold": [["annlee", "BOB"], ["The Oslo"], []],
    }
    right = right_candidates(batch, 3)
    assert right.tolist() == [[False, True, True], [False, True, False], [False] * 3]
    for row, texts, gold in zip(right.tolist(), batch["answers"], batch["gold"], strict=True):
        exact = [bool(gold) and squad_match(text, gold)[0] == 1 for text in texts]
        assert row[: len(texts)] == exact
    table = torch.tensor([[-1.0, -3, -2], [-4, -5, -torch.inf], [-1, -torch.inf, -torch.inf]])
    assert gold_losses(table, right).tolist() == [2, 5]


def test_a_real_llama_scores_one_prefix_at_a_time(llama_dir) -> None:
    module = CausalLM(str(llama_dir), task="boolq", dtype="float32").double().eval()
    rows = [row for group in examples() for row in group]
    expected = [sum(token_by_token(module.model, row)) / row[1] for row in rows]
    result = module.predict_step(choice_batch("left"), 0)
    found = [score for scores in result["scores"] for score in scores]
    assert found == pytest.approx(expected, abs=1e-7)
