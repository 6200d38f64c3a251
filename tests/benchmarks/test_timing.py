"""Cases take turns; ratios are those of pairs, so what slows both down plays no part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from timing import Ratio, markdown, ratio, take_turns

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_cases_take_turns() -> None:
    order: list[str] = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 5)
    assert order == ["a", "b"] * 8
    assert [len(times["a"]), len(times["b"])] == [5, 5] and min(times["a"]) >= 0


def test_a_ratio_is_the_median_of_pairs() -> None:
    times = {"fast": [1.0, 10.0, 2.0, 1.0, 1.0], "slow": [2.0, 20.0, 4.0, 2.0, 3.0]}
    row = ratio(times, "slow", "fast", "slow", "fast", 1.5)
    assert row == Ratio("slow", "fast", 1.5, 2.0, 2.0, 2.5, 3000.0, 1000.0)
    assert "| slow | fast | 2.000 (2.000–2.500) | ≤ 1.50 | 3000.0 / 1000.0 |" in markdown([row])


@pytest.mark.processes
def test_a_benchmark_prints_and_writes_its_ratios(tmp_path: Path) -> None:
    """Its check of correctness runs too; how fast anything is is not asserted."""
    file = tmp_path / "ratios.json"
    command = [sys.executable, BENCHMARKS / "private_adapter.py", "--repeats", "2", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    record = json.loads(file.read_text())
    assert record["machine"]["cores"] and len(record["rows"]) == 3
    for row in record["rows"]:
        assert row["low"] <= row["median"] <= row["high"] and row["what"] in done.stdout
