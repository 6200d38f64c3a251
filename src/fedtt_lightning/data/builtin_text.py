"""A generated text classification task: reviews whose verdict hangs on the order of the words.

Each review holds one word of praise and one of blame, and a template says which of the two is
meant: "the plot was gripping , not tedious" against "the plot was tedious , not gripping". Swapping
the two words swaps the label and leaves the multiset of words as it is, so no bag of words can do
better than chance; and as many templates mean their first word as their second, so neither can
the order of the two words alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from fedtt_lightning.federation.seeds import generator_for

Item = TypeVar("Item")
LABEL_NAMES = ["negative", "positive"]
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class Topic:
    """The words of one topic; each topic praises and blames in words of its own."""

    nouns: tuple[str, ...]
    praise: tuple[str, ...]
    blame: tuple[str, ...]


def _topic(nouns: str, praise: str, blame: str) -> Topic:
    return Topic(tuple(nouns.split()), tuple(praise.split()), tuple(blame.split()))


TOPICS = {
    "film": _topic(
        "plot script cast camera ending director dialogue scene",
        "gripping moving clever dazzling witty tense touching stylish",
        "tedious hollow clumsy predictable sappy muddled wooden shallow",
    ),
    "food": _topic(
        "soup bread sauce dessert roast salad curry pastry",
        "tasty crisp fragrant juicy tender creamy zesty savoury",
        "bland soggy greasy stale burnt watery rancid chewy",
    ),
    "travel": _topic(
        "hotel room beach train village harbour trail museum",
        "charming spotless sunny peaceful scenic cosy friendly splendid",
        "filthy noisy crowded gloomy shabby damp hostile dreary",
    ),
    "music": _topic(
        "album singer chorus guitar rhythm concert melody drummer",
        "soulful catchy lush radiant groovy haunting tuneful lyrical",
        "shrill flat grating tinny lifeless droning jarring monotone",
    ),
    "sport": _topic(
        "match team keeper defence coach stadium attack captain",
        "agile fearless swift tireless disciplined daring spirited sharp",
        "sluggish timid sloppy careless lazy ragged cowardly blunt",
    ),
    "gadgets": _topic(
        "phone laptop battery screen keyboard speaker camcorder printer",
        "reliable sleek speedy sturdy intuitive silent precise robust",
        "flimsy laggy bulky faulty fragile buggy clunky overpriced",
    ),
}

# {0} and {1} are the two opposite words in the order of the text. A negation stands right before
# the word that is not meant: the second one in the templates of FIRST, the first one in SECOND.
FIRST = (
    "the {n} was {0} , not {1}",
    "the {n} felt {0} and never {1}",
    "i found the {n} {0} , hardly {1}",
    "the {n} was simply {0} , far from {1}",
)
SECOND = (
    "the {n} was not {0} but {1}",
    "the {n} was never {0} and always {1}",
    "i found the {n} hardly {0} , yet {1}",
    "the {n} was far from {0} , simply {1}",
)
# Only in the texts for pretraining. Words joined by "and" agree, and a verdict agrees with the
# review before it: so raw text tells praise from blame (Hatzivassiloglou and McKeown, 1997).
AGREEING = (
    "the {n} was {0} and {1}",
    "i found the {n} {0} and always {1}",
    "the {n} felt {0} , simply {1}",
)
VERDICTS = (
    ("hated", "loved"),
    ("avoid", "try"),
    ("regret", "enjoy"),
    ("despised", "adored"),
)
OPENINGS = (
    "last week",
    "my friend says that",
    "to be honest",
    "as we all know by now",
    "on a rainy monday",
    "in my view",
    "after some thought",
    "for the second time this year",
)
CLOSINGS = (
    "and that is it",
    "as usual",
    "if you ask me",
    "at least for us",
    "said my brother on the way home",
    "so we talked about it for an hour",
    "like the one we tried in june",
    "this time",
)


def generate_reviews(size: int, seed: int, split: str) -> dict[str, list[str] | list[int]]:
    """Return columns `text`, `label` (1 = positive) and `topic` of `size` reviews.

    Deterministic in (`seed`, `split`, row): a longer data set begins with the shorter one.
    """
    texts, labels, topics = [], [], []
    for draw in generator_for(seed, "builtin", split).random((size, 8)):
        name = _pick(list(TOPICS), draw[0])
        topic, positive = TOPICS[name], draw[1] < 0.5
        meant, other = (topic.praise, topic.blame) if positive else (topic.blame, topic.praise)
        core = _contrast(draw[2:5], meant, other)
        texts.append(_framed(core, topic, draw[5:]))
        labels.append(int(positive))
        topics.append(name)
    return {"text": texts, "label": labels, "topic": topics}


def generate_corpus(size: int, seed: int) -> list[tuple[str, str]]:
    """Return `size` pairs (text, verdict word in it) for pretraining; verdicts end their text.

    A third are sentences of agreeing words, the others reviews. A quarter have the task's openings
    and closings, the others are short. The texts of the task itself never hold a verdict.
    """
    pairs = []
    for draw in generator_for(seed, "builtin", "corpus").random((size, 11)):
        topic, positive = _pick(list(TOPICS.values()), draw[0]), draw[1] < 0.5
        meant, other = (topic.praise, topic.blame) if positive else (topic.blame, topic.praise)
        if draw[2] < 1 / 3:
            words = _pick(meant, draw[3]), _pick(meant, draw[4])
            core = _pick(AGREEING, draw[5]).format(*words, n="{n}")
        else:
            core = _contrast(draw[3:6], meant, other)
        framed = draw[6] < 0.25
        text = _framed(core, topic, draw[7:]) if framed else _named(core, topic, draw[7])
        word = _pick(VERDICTS, draw[10])[int(positive)]
        pairs.append((f"{text} , {word} it", word))
    return pairs


def vocabulary() -> list[str]:
    """Return the special tokens and every word the task can use, in a fixed order."""
    words = {",", "it"}.union(*VERDICTS)
    for sentence in (*FIRST, *SECOND, *AGREEING, *OPENINGS, *CLOSINGS):
        words.update(word for word in sentence.split() if "{" not in word)
    for topic in TOPICS.values():
        words.update(topic.nouns, topic.praise, topic.blame)
    return [*SPECIAL_TOKENS, *sorted(words)]


def _pick(items: Sequence[Item], draw: float) -> Item:
    return items[int(draw * len(items))]


def _contrast(draws: Sequence[float], meant: Sequence[str], other: Sequence[str]) -> str:
    """Fill a template with a word that is meant and one that is not; the noun stays open."""
    words = _pick(meant, draws[0]), _pick(other, draws[1])
    # One draw says both which word comes first and which template is used.
    template = _pick([*FIRST, *SECOND], draws[2])
    return template.format(*(words if template in FIRST else words[::-1]), n="{n}")


def _named(core: str, topic: Topic, draw: float) -> str:
    return core.format(n=_pick(topic.nouns, draw))


def _framed(core: str, topic: Topic, draws: Sequence[float]) -> str:
    opening, closing = _pick(OPENINGS, draws[1]), _pick(CLOSINGS, draws[2])
    return f"{opening} {_named(core, topic, draws[0])} {closing}"
