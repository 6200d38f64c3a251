"""The figure of benchmarks/privacy.py: accuracy against ε, a panel for each kind of privacy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARKERS = "osD^"
COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00")  # told apart by all kinds of sight
SHIFT = 0.08  # of one method beside the other, so that error bars stay apart


def figure(rows: Sequence[dict[str, Any]], epsilons: Sequence[str], majority: float) -> Any:
    """Return a matplotlib figure of `rows`, as privacy.results gives them.

    Means over seeds with their standard deviation. Rows without privacy are drawn at ε = ∞ in each
    panel.

    Args:
        majority: accuracy of naming the more frequent class, drawn as a line.
    """
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 3.6), layout="constrained")
    panels = drawn.subplots(1, 2, sharey=True)
    places = {epsilon: place for place, epsilon in enumerate((*epsilons, "∞"))}
    names = list(dict.fromkeys(row["method"] for row in rows))
    for kind, panel in zip(("local", "central"), panels, strict=True):
        for number, name in enumerate(names):
            ours = [r for r in rows if r["method"] == name and r["privacy"] in (kind, "none")]
            ours.sort(key=lambda row: places[row["epsilon"]])
            panel.errorbar(
                [places[r["epsilon"]] + SHIFT * (number - (len(names) - 1) / 2) for r in ours],
                [row["mean"] for row in ours],
                [row["deviation"] or 0.0 for row in ours],
                label=name,
                color=COLOURS[number],
                marker=MARKERS[number],
                capsize=3,
                linewidth=1.2,
                markersize=5,
            )
        panel.axhline(majority, color="grey", linewidth=0.8, linestyle=":")
        panel.set_xticks(list(places.values()), list(places))
        panel.set_xlabel("ε of each " + ("sentence" if kind == "local" else "client"))
        panel.set_title(f"{kind} DP")
        panel.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("accuracy on SST-2's dev set")
    panels[0].annotate("more frequent class", (len(places) - 1, majority), ha="right", va="bottom")
    panels[0].legend(loc="center right", fontsize="small")
    return drawn


def save(drawn: Any, file: Path) -> list[Path]:
    """Write the figure as SVG and PNG beside each other, the same bytes for the same numbers."""
    import matplotlib

    file.parent.mkdir(parents=True, exist_ok=True)
    files = [file.with_suffix(".svg"), file.with_suffix(".png")]
    with matplotlib.rc_context({"svg.hashsalt": "fedtt"}):
        drawn.savefig(files[0], metadata={"Date": None})
        drawn.savefig(files[1], dpi=150, metadata={"Software": None})
    return files
