"""Averaging 1,000 updates of 500,000 parameters: streamed, against lists of arrays as in Flower.

    python benchmarks/aggregation.py

WeightedMean adds each update, float64 as a closed visit gives it, to a running sum and lets go of
it. Flower's `aggregate` (flwr.server.strategy.aggregate, by number of examples) multiplies and adds
float32 arrays, tensor by tensor, once all of them are there; the same lines stand below. An update
is 100 tensors. For comparison the same is summed in float32, which rounds at each of 1,000 steps,
and which the library does not do. Memory is what is held beyond the update itself, in models of
float32, at its peak. First it is checked that all give the same mean.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from timing import Row, main, ratio, take_turns

UPDATES, TENSORS, VALUES = 1000, 100, 500_000
DISTINCT = 20  # updates that take turns, so that the benchmark itself stays small


def measure(repeats: int) -> list[Row]:
    import numpy as np
    import torch

    from fedtt_lightning.federation import AdapterSchema, AdapterState, WeightedMean

    drawn = torch.Generator().manual_seed(0)
    tensors = {f"core_{i}": torch.zeros(VALUES // TENSORS) for i in range(TENSORS)}
    schema = AdapterSchema.of(tensors)
    flat = [torch.randn(VALUES, generator=drawn) for _ in range(DISTINCT)]
    updates = [AdapterState(schema, {"float32": values.double()}) for values in flat]
    start = AdapterState.capture(tensors)
    lists = [[part.numpy() for part in values.split(VALUES // TENSORS)] for values in flat]
    weights = [float(10 + i % 7) for i in range(UPDATES)]

    def stream() -> Any:
        rule = WeightedMean()
        for i, weight in enumerate(weights):
            rule.add(i, start, updates[i % DISTINCT], weight)
        return rule.result(start)

    def of_lists() -> list[Any]:
        results = [(lists[i % DISTINCT], weight) for i, weight in enumerate(weights)]
        total = sum(weight for _, weight in results)
        weighted = [[layer * weight for layer in layers] for layers, weight in results]
        return [reduce(np.add, layers) / total for layers in zip(*weighted, strict=True)]

    def in_float32() -> Any:
        total = torch.zeros(VALUES)
        for i, weight in enumerate(weights):
            total.add_(flat[i % DISTINCT], alpha=weight)
        return total.div_(sum(weights))

    ours, theirs = stream().buffers["float32"], np.concatenate(of_lists())
    torch.testing.assert_close(ours, torch.from_numpy(theirs).double(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(in_float32().double(), ours, rtol=1e-3, atol=1e-5)
    cases = {"stream": stream, "lists": of_lists, "float32": in_float32}
    times = take_turns(cases, repeats)
    what = f"aggregation of {UPDATES:,} updates of {VALUES / 1e6:g}M parameters"
    row = ratio(times, "lists", "stream", f"{what}: speed", "numpy lists as Flower holds them", 4.0)
    faster = Row(
        row.what, row.against, row.value, row.low, row.high, 4.0, least=True, detail=row.detail
    )
    single = ratio(times, "lists", "float32", f"{what}: speed of sums in float32", row.against)
    held = peak(stream) / (VALUES * 4)
    memory = Row(f"{what}: extra memory", "one model of float32", held, held, held, 3.0)
    return [faster, single, memory]


def peak(case: Callable[[], Any]) -> int:
    """Return the most bytes of tensors that a case holds at a time beyond those before it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        case()
    held = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


if __name__ == "__main__":
    main(__doc__, measure, repeats=5)
