"""The path of the data: start with and without kept tokens, batches, padding, start of a round.

    python benchmarks/data.py

20,000 generated texts of 1 to 6 reviews in the files of SST-2, read by GlueData as in any run; 10
clients. CPU time on one thread, but for the start of a round: there it is the time to the first
batch of a round of two visits with 2 workers, of which none is started but in the first round.
First it is checked that tokens are the same kept and made, that examples of grouped batches are
those of shuffled ones, and that batches are the same with workers of earlier rounds.
"""

from __future__ import annotations

import os
import shutil
import time
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from timing import Row, main, ratio, take_turns

TEXTS, CLIENTS, BATCH = 20_000, 10, 32
WARM_UP = 2


def measure(repeats: int) -> list[Row]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        folder = Path(name)
        write_texts(folder)
        return [
            *starts(folder, repeats),
            batches(folder, repeats),
            padding(folder),
            round_start(folder, repeats),
        ]


def write_texts(folder: Path) -> None:
    """Write texts of different lengths, and a tokenizer of their words."""
    from fedtt_lightning.data.builtin_backbone import make_tokenizer
    from fedtt_lightning.data.builtin_text import generate_reviews
    from fedtt_lightning.federation.seeds import generator_for

    lengths = generator_for(0, "lengths").integers(1, 7, TEXTS)
    reviews = generate_reviews(int(lengths.sum()), 0, "train")
    parts = iter(reviews["text"])
    lines = [
        f"{' '.join(str(next(parts)) for _ in range(length))}\t{label}\n"
        for length, label in zip(lengths, reviews["label"], strict=False)
    ]
    (folder / "SST-2").mkdir()
    for split, rows in (("train", lines), ("dev", lines[:100])):
        (folder / "SST-2" / f"{split}.tsv").write_text("".join(["sentence\tlabel\n", *rows]))
    make_tokenizer().save_pretrained(folder / "tokenizer")


def texts(folder: Path, **options: Any) -> Any:
    """Return the datamodule, ready for its rounds."""
    from datasets.utils.logging import disable_progress_bar

    from fedtt_lightning.data import GlueData

    disable_progress_bar()
    data = GlueData(
        "sst2", str(folder / "tokenizer"), str(folder), batch_size=BATCH, clients=CLIENTS, **options
    )
    data.setup("fit")
    data.federate(0)
    return data


def loader(data: Any) -> Any:
    """Return the loader of the first round, in which two clients train."""
    from fedtt_lightning.data.round_loader import batches_per_epoch
    from fedtt_lightning.federation import RoundPlanner, UniformSampler

    planner = RoundPlanner(
        0,
        data.clients.sizes,
        lambda size: batches_per_epoch(size, data.loader),
        sampler=UniformSampler(2),
    )
    data.plan = lambda: planner.plan(0)
    return data.train_dataloader()


def starts(folder: Path, repeats: int) -> list[Row]:
    def cold() -> Any:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return texts(folder)

    cases = {
        "memory": lambda: texts(folder, token_cache=False),
        "cold": cold,
        "kept": lambda: texts(folder),
    }
    columns = [case().train_data["input_ids"] for case in cases.values()]
    assert columns[0] == columns[1] == columns[2]
    times = take_turns(cases, repeats)
    what = f"start of data of {TEXTS:,} texts"
    against = "tokens in memory only"
    return [
        ratio(times, "kept", "memory", f"{what}, tokens kept from an earlier run", against),
        ratio(times, "cold", "memory", f"{what}, tokens kept for later runs", against),
    ]


def batches(folder: Path, repeats: int) -> Row:
    rounds = {
        "map": loader(texts(folder)),
        "memory": loader(texts(folder, token_cache=False)),
    }
    times = take_turns({name: lambda r=r: list(r) for name, r in rounds.items()}, repeats)  # type: ignore[misc]
    what = f"cutting {len(rounds['map'])} batches of {BATCH} texts from the map"
    return ratio(times, "map", "memory", what, "from memory")


def padding(folder: Path) -> Row:
    def tokens(**options: Any) -> tuple[int, int, list[Any]]:
        batches = list(loader(texts(folder, **options)))
        padded = sum(batch["input_ids"].numel() for batch in batches)
        held = sum(int(batch["attention_mask"].sum()) for batch in batches)
        rows = chain.from_iterable(
            zip(batch["attention_mask"].sum(1).tolist(), batch["labels"].tolist(), strict=True)
            for batch in batches
        )
        return padded, held, sorted(rows)

    grouped, held, examples = tokens(group_by_length=True)
    shuffled, _, same = tokens()
    assert examples == same, "the examples of a round are those of shuffled batches"
    value, detail = grouped / shuffled, f"{held / grouped:.0%} / {held / shuffled:.0%} no padding"
    what = "tokens of a round with padding, data.group_by_length"
    return Row(what, "shuffled batches", value, value, value, detail=detail)


def round_start(folder: Path, repeats: int) -> Row:
    import torch

    data = texts(folder, num_workers=2)
    plain, kept = list(loader(texts(folder))), loader(data)
    for _ in range(2):
        pairs = zip(kept, plain, strict=True)
        assert all(torch.equal(a[name], b[name]) for a, b in pairs for name in b)
    times: dict[str, list[float]] = {"kept": [], "new": []}
    for turn in range(WARM_UP + repeats):
        for name, found in times.items():
            if name == "new":
                data.close_loader()
            start = time.perf_counter()
            next(batches := iter(loader(data)))
            if turn >= WARM_UP:
                found.append(time.perf_counter() - start)
            list(batches)
    data.close_loader()
    what = "start of a round, workers of the rounds before"
    return ratio(times, "kept", "new", what, "new workers")


if __name__ == "__main__":
    main(__doc__, measure, repeats=15)
