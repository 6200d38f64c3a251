"""Keyed randomness: every draw has a name, so no draw depends on what was drawn before it."""

from hashlib import blake2b
from random import random as draw_python
from random import seed as seed_python

import numpy as np
import torch


def seed_for(experiment: int, *keys: int | str) -> int:
    """Return the 63-bit seed that belongs to `keys` in an experiment.

    The same keys give the same seed on any machine, in any process and in any order of calls,
    which is why runs on one or many processes, interrupted or not, agree.

    Examples:
        >>> seed_for(0, "visit", 3, 7)
        4681445201671161545
        >>> seed_for(0, "visit", 3, 7) == seed_for(0, "visit", 7, 3)
        False
    """
    name = repr((int(experiment), *keys)).encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big") >> 1


def generator_for(experiment: int, *keys: int | str) -> np.random.Generator:
    """Return a fresh NumPy generator for `keys`; see `seed_for`."""
    return np.random.default_rng(seed_for(experiment, *keys))


def uniform_for(experiment: int, *keys: int | str) -> float:
    """Return a number drawn uniformly from (0, 1) for `keys`, at a tenth of a generator's cost."""
    return ((seed_for(experiment, *keys) >> 11) + 0.5) / 2**52


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices) with one number."""
    seed_python(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    seed_torch(seed)


def drawn_since(seed: int) -> bool:
    """Tell whether a global generator was used since `seed_all(seed)`, which is called again."""
    now = _draw()
    seed_all(seed)
    return now != _draw()


def _draw() -> tuple[float, ...]:
    # Reading NumPy's state takes 150 µs, a number 1.
    devices = ["cpu"]
    if torch.accelerator.is_available():
        devices.append(str(torch.accelerator.current_accelerator()))
    drawn = [torch.rand((), device=device).item() for device in devices]
    return (draw_python(), np.random.random(), *drawn)


def seed_torch(seed: int) -> None:
    """Seed torch's global generators of all devices."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # the same, without what it notes down for devices that are not there: 1 µs, not 180
        torch.default_generator.manual_seed(seed)
