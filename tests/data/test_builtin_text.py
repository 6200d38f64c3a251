import re

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from fedtt_lightning.data.builtin_text import (
    FIRST,
    SECOND,
    TOPICS,
    VERDICTS,
    generate_corpus,
    generate_reviews,
    vocabulary,
)

TRAIN = generate_reviews(4000, 0, "train")
TEST = generate_reviews(20_000, 0, "test")


def accuracy(ngrams):
    counts = CountVectorizer(ngram_range=ngrams, token_pattern=r"\S+")
    model = make_pipeline(counts, LogisticRegression(max_iter=2000))
    model.fit(TRAIN["text"], TRAIN["label"])
    return model.score(TEST["text"], TEST["label"])


def test_a_bag_of_words_is_at_chance_and_word_order_solves_it():
    # Three standard errors of 20,000 fair coins.
    assert abs(accuracy((1, 1)) - 0.5) < 3 * 0.5 / np.sqrt(20_000)
    assert accuracy((1, 2)) > 0.85


def test_swapping_the_two_opposite_words_swaps_the_label():
    opposite = {word: 1 for t in TOPICS.values() for word in t.praise}
    opposite |= {word: 0 for t in TOPICS.values() for word in t.blame}
    label_of = {}
    for text, label in zip(
        TRAIN["text"] + TEST["text"], TRAIN["label"] + TEST["label"], strict=True
    ):
        marked = [opposite[word] for word in text.split() if word in opposite]
        assert sorted(marked) == [0, 1]
        skeleton = re.sub(r"\S+", lambda m: "#" if m[0] in opposite else m[0], text)
        negations = {"not", "never", "hardly", "far"}
        first_is_meant = next(w for w in skeleton.split() if w in {"#"} | negations) == "#"
        assert label == (marked[0] if first_is_meant else marked[1])
        label_of.setdefault(first_is_meant, set()).add(label)
    assert label_of == {True: {0, 1}, False: {0, 1}}


def test_templates_of_both_kinds_use_the_same_negations():
    negations = {"not", "never", "hardly", "far"}
    assert len(FIRST) == len(SECOND)
    for first, second in zip(FIRST, SECOND, strict=True):
        assert set(first.split()) & negations == set(second.split()) & negations
        for template in (first, second):
            assert template.split().count("{0}") == template.split().count("{1}") == 1


def test_texts_are_deterministic_short_and_in_the_vocabulary():
    assert generate_reviews(100, 0, "train")["text"] == TRAIN["text"][:100]
    assert generate_reviews(100, 1, "train")["text"] != TRAIN["text"][:100]
    lengths = [len(text.split()) for text in TRAIN["text"]]
    assert min(lengths) >= 8
    assert max(lengths) <= 24
    words = set(" ".join(TRAIN["text"] + [text for text, _ in generate_corpus(3000, 0)]).split())
    assert words <= set(vocabulary())
    assert len(vocabulary()) == len(set(vocabulary())) < 1000


def test_splits_are_balanced_by_label_and_topic():
    assert abs(np.mean(TRAIN["label"]) - 0.5) < 0.03
    names, counts = np.unique(TRAIN["topic"], return_counts=True)
    assert set(names) == set(TOPICS)
    assert counts.min() > 550


def test_topics_share_no_word_of_praise_or_blame():
    words = [word for topic in TOPICS.values() for word in (*topic.praise, *topic.blame)]
    assert len(words) == len(set(words))


def test_the_task_holds_no_verdict_and_the_corpus_ends_in_one():
    verdicts = {word for pair in VERDICTS for word in pair}
    assert not verdicts & set(" ".join(TRAIN["text"] + TEST["text"]).split())
    for text, word in generate_corpus(200, 0):
        assert word in verdicts
        assert text.endswith(f", {word} it")
