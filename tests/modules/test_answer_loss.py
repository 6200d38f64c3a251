"""Likelihoods of answers against loops over examples and tokens."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from answer_rows import answer_rows, packed, padded
from fedtt_lightning.modules.answer_loss import answer_likelihood, answer_targets, example_numbers


def likelihood(batch, logits):
    """As the module computes it, with logits of the wanted positions alone."""
    segments = batch.get("segments")
    targets, positions = answer_targets(batch["labels"], segments)
    owners, examples = example_numbers(batch["labels"], segments)
    kept = logits[:, positions]
    return answer_likelihood(kept, targets[:, positions], owners[:, positions], examples)


def logits_for(batch, dtype=torch.float64):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(*batch["input_ids"].shape, 60, generator=rng, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows_against_a_loop(side):
    rows = answer_rows(6)
    batch = padded(rows, side, extra=2)
    logits = logits_for(batch)
    found = likelihood(batch, logits)
    for i, (ids, answer) in enumerate(rows):
        start = 0 if side == "right" else batch["input_ids"].shape[1] - len(ids)
        end = start + len(ids)
        row = logits[i, end - answer - 1 : end - 1]
        expected = cross_entropy(row, ids[-answer:], reduction="sum")
        torch.testing.assert_close(found.nll[i], expected)
        assert found.tokens[i] == answer
        torch.testing.assert_close(found.mean()[i], expected / answer)


def test_packed_rows_against_a_loop():
    rows = answer_rows(7, seed=3)
    batch = packed(rows, 24)
    assert len(batch["input_ids"]) < len(rows)
    logits = logits_for(batch)
    found = likelihood(batch, logits)
    places = [
        (line, at)
        for line, segments in enumerate(batch["segments"])
        for at in range(24)
        if segments[at] and (at == 0 or segments[at] != segments[at - 1])
    ]
    for i, ((line, start), (ids, answer)) in enumerate(zip(places, rows, strict=True)):
        end = start + len(ids)
        row = logits[line, end - answer - 1 : end - 1]
        expected = cross_entropy(row, ids[-answer:], reduction="sum")
        torch.testing.assert_close(found.nll[i], expected)
    assert found.tokens.tolist() == [answer for _, answer in rows]


def test_no_example_predicts_the_first_token_of_the_next():
    """Of texts every token is a label: packed, the first ones follow another text's last."""
    rows = [(ids, len(ids)) for ids, _ in answer_rows(5)]
    together = likelihood(packed(rows, 30), logits_for(packed(rows, 30)))
    assert together.tokens.tolist() == [len(ids) - 1 for ids, _ in rows]
    alone = padded(rows)
    assert likelihood(alone, logits_for(alone)).tokens.tolist() == together.tokens.tolist()


def test_half_precision_is_summed_in_float32():
    batch = padded(answer_rows(4))
    half = logits_for(batch, torch.bfloat16)
    found = likelihood(batch, half)
    assert found.nll.dtype == torch.float32
    torch.testing.assert_close(found.nll, likelihood(batch, half.double()).nll.float())


def test_an_example_without_answer_counts_nothing():
    batch = padded(answer_rows(3))
    batch["labels"][1] = -100
    logits = logits_for(batch).requires_grad_()
    found = likelihood(batch, logits)
    assert found.tokens[1] == 0 and found.mean()[1] == 0
    batch["labels"][:] = -100
    nothing = likelihood(batch, logits).mean()
    assert nothing.tolist() == [0, 0, 0] and nothing.requires_grad
