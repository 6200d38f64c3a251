"""Updates of random shapes and dtypes for the tests of codecs."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from fedtt_lightning.federation import AdapterSchema, AdapterState, TensorSpec


def an_update(*values: float, dtype: str = "float32") -> AdapterState:
    """An update of one tensor."""
    schema = AdapterSchema((TensorSpec("core_0", (len(values),), dtype),))
    return AdapterState(schema, {dtype: torch.tensor(values, dtype=torch.float64)})


@st.composite
def updates(draw: st.DrawFn) -> AdapterState:
    """Updates of several tensors, some of them empty or zero, of a model of mixed dtypes."""
    specs = []
    for i in range(draw(st.integers(1, 5))):
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        dtype = draw(st.sampled_from(["float32", "float64", "bfloat16"]))
        specs.append(TensorSpec(f"core_{i}", shape, dtype))
    schema = AdapterSchema(tuple(specs))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    buffers = {}
    for dtype, (_, numel) in schema.layout.items():
        scale = 10.0 ** draw(st.integers(-9, 3)) * draw(st.sampled_from([0.0, 1.0, 1.0]))
        normal = torch.randn(numel, generator=generator, dtype=torch.float64)
        buffers[dtype] = normal * scale
    return AdapterState(schema, buffers)
