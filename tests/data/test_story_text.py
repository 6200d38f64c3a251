"""Stories made on the spot: the same for the same seed, and worlds that differ."""

import re

import numpy as np

from fedtt_lightning.data.story_text import OPENINGS, PLOTS, WORLDS, generate_stories, plots_of

TRAIN = generate_stories(1200, 0, "train")
TEST = generate_stories(300, 0, "dev")


def words(text):
    return set(re.findall(r"\w+", text))


def test_a_longer_set_begins_with_the_shorter_and_splits_and_seeds_differ():
    assert generate_stories(50, 0, "train")["text"] == TRAIN["text"][:50]
    assert generate_stories(50, 1, "train")["text"] != TRAIN["text"][:50]
    assert not set(TRAIN["text"]) & set(TEST["text"])
    assert len(set(TRAIN["text"])) > 0.98 * 1200


def test_every_story_is_of_its_world_alone():
    names = {world: set(WORLDS[world].names) for world in WORLDS}
    assert len(set().union(*names.values())) == sum(map(len, names.values()))
    for text, world in zip(TRAIN["text"], TRAIN["world"], strict=True):
        assert "{" not in text
        for other, theirs in names.items():
            assert bool(words(text) & theirs) == (other == world)


def test_worlds_are_even_and_tell_half_of_the_plots():
    found, counts = np.unique(TRAIN["world"], return_counts=True)
    assert set(found) == set(WORLDS)
    assert counts.min() > 60 and counts.max() < 140
    for number, world in enumerate(WORLDS):
        texts = [t for t, w in zip(TRAIN["text"], TRAIN["world"], strict=True) if w == world]
        told = [
            any(_fixed(sentence) in text for text in texts for sentence in plot[3])
            for plot in PLOTS
        ]
        assert [plot for plot, is_told in zip(PLOTS, told, strict=True) if is_told] == [
            plot for plot in PLOTS if plot in plots_of(number)
        ]


def _fixed(sentence):
    """The longest piece of a sentence that every story has alike."""
    return max(re.split(r"\{\w+\}", sentence), key=len)


def test_stories_are_short_sentences_of_simple_words():
    lengths = [len(text.split()) for text in TRAIN["text"]]
    assert min(lengths) >= 30 and max(lengths) <= 90
    assert len(set().union(*map(words, TRAIN["text"]))) < 450
    assert len(OPENINGS) > 2
