"""Small stories made on the spot, in the simple words of TinyStories (arXiv 2305.07759).

A story belongs to one of twelve worlds. Each world has its own children, place, animal and things,
and tells three of the six plots, so that clients with worlds of their own differ in who and what
they write about, and a model that has read one world's stories does not know another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedtt_lightning.federation.seeds import generator_for

Sentences = tuple[str, ...]  # of which a story takes one


@dataclass(frozen=True)
class World:
    """The words of one world; `place` and `spot` stand with their article, things without."""

    names: tuple[str, ...]
    place: str
    spot: str
    animal: str
    things: tuple[str, ...]
    deeds: tuple[str, ...]


def _world(names: str, place: str, spot: str, animal: str, things: str, deeds: str) -> World:
    return World(
        tuple(names.split()),
        place,
        spot,
        animal,
        tuple(things.split(", ")),
        tuple(deeds.split(", ")),
    )


WORLDS = {
    "beach": _world(
        "Ben Mia Sandy",
        "the beach",
        "behind the big rock",
        "crab",
        "blue bucket, white shell, red kite, sand hat",
        "build a castle, catch a wave, find a shell, dig a hole",
    ),
    "circus": _world(
        "Bobo Lola Rico",
        "the circus",
        "under the tall ladder",
        "monkey",
        "striped ball, funny nose, silver horn, yellow drum",
        "jump over a hoop, walk on a rope, juggle three balls, make people laugh",
    ),
    "farm": _world(
        "Tom Rosie Jack",
        "the farm",
        "in the old barn",
        "cow",
        "straw hat, milk can, brown basket, little cart",
        "feed the hens, ride the pony, pick the apples, clean the barn",
    ),
    "forest": _world(
        "Max Lucy Fern",
        "the forest",
        "inside a hollow tree",
        "fox",
        "walking stick, green cap, pine cone, map",
        "climb the tree, cross the river, pick berries, make a camp",
    ),
    "garden": _world(
        "Lily Sam Rose",
        "the garden",
        "under a big leaf",
        "snail",
        "watering can, pretty flower, clay pot, shovel",
        "plant a seed, water the flowers, pull the weeds, grow a carrot",
    ),
    "harbour": _world(
        "Finn Nora Pete",
        "the harbour",
        "near the white sail",
        "seagull",
        "fishing net, wooden boat, long rope, captain hat",
        "sail the boat, catch a fish, tie a knot, row to the island",
    ),
    "kitchen": _world(
        "Anna Gus Ella",
        "the kitchen",
        "on the top shelf",
        "mouse",
        "round cake, big spoon, cookie jar, soup pot",
        "bake a cake, stir the soup, cut the bread, make a pie",
    ),
    "library": _world(
        "Jane Theo Paul",
        "the library",
        "between two old books",
        "cat",
        "picture book, reading lamp, paper bird, pencil box",
        "read a book, write a poem, draw a picture, learn the letters",
    ),
    "mountain": _world(
        "Heidi Karl Otto",
        "the mountain",
        "beside a cold stream",
        "goat",
        "warm coat, wool scarf, bell, wooden sled",
        "climb to the top, ride the sled, build a snowman, call the goats",
    ),
    "music room": _world(
        "Clara Leo Vera",
        "the music room",
        "below the black piano",
        "parrot",
        "little flute, violin, song book, drum",
        "play a song, sing a high note, beat the drum, dance to the music",
    ),
    "space ship": _world(
        "Zoe Rex Nova",
        "the space ship",
        "next to the round window",
        "robot",
        "moon stone, star map, shiny helmet, rocket toy",
        "fly to the moon, fix the engine, count the stars, land on a planet",
    ),
    "toy shop": _world(
        "Emma Tim Polly",
        "the toy shop",
        "at the bottom of a box",
        "puppy",
        "toy train, soft bear, puzzle, spinning top",
        "wind the train, sew a button, paint a doll, wrap a present",
    ),
}

OPENINGS: Sentences = (
    "Once upon a time, there was a child named {a} who lived near {place}.",
    "One day, {a} and {b} went to {place}.",
    "{a} and {b} were best friends. They played in {place} every day.",
    "It was a sunny day in {place}, and {a} was there with {b}.",
)
PLOTS: tuple[tuple[Sentences, ...], ...] = (
    (
        ("{a} had a {thing} and loved it very much.", "{a} took a {thing} everywhere."),
        ("But then the {thing} was gone!", "But when {a} woke up, the {thing} was not there."),
        ("{a} was sad and began to cry.", "{a} looked and looked, but could not find it."),
        ('"Do not cry," said {b}. "I will help you."', '"Let us look together," said {b}.'),
        ("They found the {thing} {spot}.", "It was {spot}! A {animal} had hidden it."),
    ),
    (
        ("{a} found a {thing} {spot}.", "{a} got a new {thing}."),
        ('{b} said, "Can I play with it too?"', "{b} wanted to play with the {thing}."),
        ('"No, it is mine!" said {a}.', "{a} did not want to share."),
        ("{b} went away and felt sad.", "{b} sat down {spot} and did not speak."),
        ('{a} said, "I am sorry. Let us share."', "So {a} gave the {thing} to {b}."),
    ),
    (
        ("{a} wanted to {deed}.", 'One morning {a} said, "I want to {deed}."'),
        ("It was too hard for {a}.", "{a} tried and tried, but it did not work."),
        ('{b} came and said, "I can help you."', "{b} saw this and came to help."),
        ("They worked together all day.", "{b} held the {thing} while {a} tried again."),
        ('"We did it!" they said.', "At last {a} could {deed}."),
    ),
    (
        ("{a} heard a strange noise {spot}.", "Something was moving {spot}."),
        ("{a} was very scared.", '"Is it a monster?" asked {a}.'),
        ("{b} took the {thing} and went to see.", '"Let us go and see," said {b}.'),
        ("It was only a little {animal}!", "A small {animal} came out."),
        ("The {animal} was hungry, so they gave it some food.", "They gave the {animal} a hug."),
    ),
    (
        ("It was the birthday of {b}.", "{b} was sick and had to stay in bed."),
        ("{a} wanted to bring something nice.", "{a} wanted to make {b} smile."),
        ("{a} made a {thing} all alone.", "{a} saw a {thing} {spot} and had an idea."),
        ("Even the {animal} helped.", "It took a long time, but {a} did not give up."),
        ("{b} smiled and said thank you.", '"This is the best {thing}!" said {b}.'),
    ),
    (
        ("A {animal} lived {spot}.", "{a} and {b} met a {animal}."),
        ("The {animal} could not find its mother.", "The {animal} had hurt its leg."),
        ('"We must help," said {a}.', "{a} gave the {animal} some water."),
        ("{b} carried it home in a {thing}.", "They made a bed for it in a {thing}."),
        ("Soon the {animal} was happy again.", "Then the {animal} helped them to {deed}."),
    ),
)
ENDINGS: Sentences = (
    "They were very happy.",
    "From that day on, {a} and {b} were always kind to each other.",
    "Then they went home to eat dinner.",
    "{a} learned that friends are the best thing of all.",
)
_PLOTS_OF_A_WORLD = 3
_DRAWS = 13


def generate_stories(size: int, seed: int, split: str) -> dict[str, list[str]]:
    """Return columns `text` and `world` of `size` stories.

    Deterministic in (`seed`, `split`, row): a longer data set begins with the shorter one.
    """
    worlds = list(WORLDS)
    texts, names = [], []
    for draw in generator_for(seed, "builtin stories", split).random((size, _DRAWS)):
        number = int(draw[0] * len(worlds))
        texts.append(_story(WORLDS[worlds[number]], plots_of(number), draw[1:]))
        names.append(worlds[number])
    return {"text": texts, "world": names}


def plots_of(world: int) -> list[tuple[Sentences, ...]]:
    """Return the plots that the world of this number tells."""
    return [PLOTS[(world + shift) % len(PLOTS)] for shift in range(_PLOTS_OF_A_WORLD)]


def _story(world: World, plots: Sequence[tuple[Sentences, ...]], draws: Sequence[float]) -> str:
    first = int(draws[0] * len(world.names))
    others = [name for index, name in enumerate(world.names) if index != first]
    words = {
        "a": world.names[first],
        "b": others[int(draws[1] * len(others))],
        "thing": world.things[int(draws[2] * len(world.things))],
        "deed": world.deeds[int(draws[3] * len(world.deeds))],
        "place": world.place,
        "spot": world.spot,
        "animal": world.animal,
    }
    choices = (OPENINGS, *plots[int(draws[4] * len(plots))], ENDINGS)
    chosen = [c[int(draw * len(c))] for c, draw in zip(choices, draws[5:], strict=True)]
    return " ".join(chosen).format(**words)
