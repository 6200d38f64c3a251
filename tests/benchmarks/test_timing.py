"""Cases take turns; ratios are those of pairs, so what slows both down plays no part."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import private_adapter
import pytest
from timing import Row, main, markdown, ratio, take_turns


def test_cases_take_turns() -> None:
    order: list[str] = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 5)
    assert order == ["a", "b"] * 8
    assert [len(times["a"]), len(times["b"])] == [5, 5] and min(times["a"]) >= 0


def test_a_ratio_is_the_median_of_pairs() -> None:
    times = {"fast": [1.0, 10.0, 2.0, 1.0, 1.0], "slow": [2.0, 20.0, 4.0, 2.0, 3.0]}
    row = ratio(times, "slow", "fast", "slow", "fast", 1.5)
    detail = "3000.0 / 1000.0 ms"
    assert row == Row("slow", "fast", 2.0, 2.0, 2.5, 1.5, detail=detail) and not row.met
    shown = f"| slow | fast | 2.000 (2.000–2.500) | ≤ 1.5 missed | {detail} |"
    assert shown in markdown([row])


def test_bars_may_be_limits_from_below() -> None:
    row = Row("aggregation", "lists", 5.0, 4.5, 5.5, 4.0, least=True)
    assert row.met and "≥ 4 |" in markdown([row])
    assert Row("start", "imports", 2.5, 2.0, 3.0, 2.0, "s").met is False
    assert "2.500 s (2.000–3.000) | ≤ 2 missed" in markdown([Row("", "", 2.5, 2, 3, 2.0, "s")])


def test_a_benchmark_prints_and_writes_its_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its check of correctness runs too; how fast anything is is not asserted."""
    file = tmp_path / "ratios.json"
    arguments = ["private_adapter.py", "--repeats", "2", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", arguments)
    main("private", private_adapter.measure, repeats=30)
    shown = capsys.readouterr().out
    record = json.loads(file.read_text())
    assert record["machine"]["cores"] and len(record["rows"]) == 3
    for row in record["rows"]:
        assert row["low"] <= row["value"] <= row["high"] and row["what"] in shown
