"""Charts as SVG for pages of both themes, and as PNG and PDF."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.report.charts import Chart, Dots, HeatMap, Lines
from fedtt_lightning.report.svg import as_text, finished_svg
from fedtt_lightning.wording import human_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Each stands out from white and from near-black by 3:1 and more, and from the others for the
# red-green blind; lines differ in their markers and, from the seventh on, in their dashes too.
COLOURS = ("#2f62c5", "#fe0103", "#18903b", "#a872fe", "#d57881", "#c10284")
_MARKERS = ("o", "s", "^", "D", "v", "X", "P")
_DASHES = ("-", "--", ":", "-.")
_INK = "#010203"  # of text and axes; on the page it becomes the colour of the text around
_WIDTH, _HEIGHT = 4.4, 2.6  # inches, of a figure and of lines


def draw_svg(chart: Chart) -> str:
    """Return the chart as an SVG element for HTML: text as text, its words at each mark."""
    figure, words = _draw(chart)
    buffer = io.BytesIO()
    with _style(chart):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = finished_svg(buffer.getvalue(), chart.key, chart.title, words)
    return as_text(root).replace(_INK, "currentColor")


def draw_file(chart: Chart, kind: str) -> bytes:
    """Return the chart as a file on white: `svg`, `png` or `pdf`."""
    figure, _ = _draw(chart)
    dates = {"pdf": "CreationDate", "svg": "Date"}
    metadata: dict[str, Any] = {dates[kind]: None} if kind in dates else {}
    buffer = io.BytesIO()
    with _style(chart):
        figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
    return buffer.getvalue()


def _style(chart: Chart) -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ConfigError(
            "the report's charts need matplotlib: pip install 'fedtt-lightning[report]', or use "
            "--json"
        ) from None
    inked: Any = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return matplotlib.rc_context(
        {
            **dict.fromkeys(inked, _INK),
            "font.size": 9,
            "text.parse_math": False,  # a run's name is no formula
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#888888",
            "grid.alpha": 0.25,
            "grid.linewidth": 0.6,
            "svg.fonttype": "none",
            "svg.hashsalt": chart.key,
            "pdf.fonttype": 42,
        }
    )


def _draw(chart: Chart) -> tuple[Figure, dict[str, list[str]]]:
    """Return the figure, and by the id of each group of marks the words at its marks."""
    with _style(chart):
        if isinstance(chart, HeatMap):
            return _draw_map(chart)
        return _draw_dots(chart) if isinstance(chart, Dots) else _draw_lines(chart)


def _draw_lines(chart: Lines) -> tuple[Figure, dict[str, list[str]]]:
    from matplotlib.ticker import MaxNLocator, NullLocator

    curves = list(chart.drawn())
    figure, axes = _figure(_HEIGHT, [label for _, label, _, _ in curves])
    handles, words = [], {}
    for index, _, points, said in curves:
        x = [place for place, _ in points]
        y, sd = [score.mean for _, score in points], [score.sd or 0.0 for _, score in points]
        dashes = _DASHES[index // len(COLOURS) % len(_DASHES)]
        (line,) = axes.plot(x, y, linestyle=dashes, linewidth=1.4, **_mark(index))
        line.set_gid(f"points{index}")
        words[f"points{index}"] = said
        handles.append(line)
        if any(sd) and len(sd) == 1:  # too little for a band
            axes.errorbar(x, y, sd, fmt="none", ecolor=line.get_color(), elinewidth=1)
        elif any(sd):
            low, high = ([b + sign * s for b, s in zip(y, sd, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.set_ylim(chart.limits or ((0, 105) if chart.y_label == "% of clients" else None))
    if chart.in_bytes:
        sent = [x for _, _, points, _ in curves for x, _ in points]
        ticks = np.unique(np.geomspace(min(sent), max(sent), 4))
        axes.set_xscale("log")
        axes.set_xticks(ticks, [human_bytes(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    elif chart.ticks:
        wide = 0 < 10 * min(chart.ticks) <= max(chart.ticks)
        axes.set_xscale("log" if wide else "linear")
        axes.set_xticks(chart.ticks, [f"{tick:g}" for tick in chart.ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    elif chart.x_label in ("round", "visits"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _add_legend(figure, handles, [label for _, label, _, _ in curves])
    return figure, words


def _draw_dots(chart: Dots) -> tuple[Figure, dict[str, list[str]]]:
    series = list(chart.drawn())
    labels = [label for _, label, _, _ in series]
    step = 0.13  # inches between the dots of one choice
    figure, axes = _figure(0.7 + len(chart.choices) * step * (len(series) + 1), labels)
    handles, words = [], {}
    for number, (index, _, dots, said) in enumerate(series):
        shift = (number - (len(series) - 1) / 2) / (len(series) + 1)
        y = [place + shift for place, _ in dots]
        means, sds = [score.mean for _, score in dots], [score.sd or 0.0 for _, score in dots]
        (line,) = axes.plot(means, y, linestyle="none", **_mark(index))
        line.set_gid(f"points{index}")
        words[f"points{index}"] = said
        handles.append(line)
        axes.errorbar(means, y, xerr=sds, fmt="none", ecolor=line.get_color(), elinewidth=1)
    names = [textwrap.shorten(name, 30, placeholder="…") for name in chart.choices]
    axes.set_yticks(range(len(names)), names)
    axes.set_yticks([place + 0.5 for place in range(len(names) - 1)], minor=True)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(chart.limits)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="y", which="minor")
    axes.tick_params(axis="y", which="both", length=0)
    axes.set_xlabel(chart.score)
    axes.set_ylabel(chart.axis)
    if len(series) > 1:
        _add_legend(figure, handles, labels)
    return figure, words


def _figure(height: float, labels: list[str]) -> tuple[Figure, Axes]:
    """Return a figure with room for a legend, whose axes are so many inches high."""
    from matplotlib.figure import Figure

    lines = "\n".join(map(_wrapped, labels)).count("\n") + 1
    figure = Figure(figsize=(_WIDTH, height + 0.17 * lines + 0.2), layout="constrained")
    return figure, figure.add_subplot()


def _add_legend(figure: Figure, handles: list[Line2D], labels: list[str]) -> None:
    names = [*map(_wrapped, labels)]
    figure.legend(handles, names, loc="outside lower left", frameon=False, fontsize=8)


def _wrapped(label: str) -> str:
    return textwrap.fill(label, 50)


def _mark(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 4,
        "clip_on": False,  # as would be the words at the mark
    }


def _draw_map(chart: HeatMap) -> tuple[Figure, dict[str, list[str]]]:
    import matplotlib
    from matplotlib.figure import Figure

    counts, words = chart.drawn()
    clients, labels = counts.shape
    figure = Figure(figsize=(_WIDTH, min(1.2 + 0.2 * clients, 8)), layout="constrained")
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["cividis"].resampled(32)
    axes.grid(visible=False)
    mesh = axes.pcolormesh(counts, cmap=colours, edgecolors="none", vmin=0, clip_on=False)
    mesh.set_gid("points0")
    bar = figure.colorbar(mesh, label="examples")
    bar.outline.set_visible(False)
    step = -(-clients // 25)
    axes.set_yticks([i + 0.5 for i in range(0, clients, step)], chart.clients[:clients:step])
    names = [label if len(label) <= 12 else f"{label[:11]}…" for label in chart.labels[:labels]]
    axes.set_xticks([i + 0.5 for i in range(labels)], names, rotation=90 if labels > 4 else 0)
    axes.set_ylabel("client")
    axes.invert_yaxis()
    axes.tick_params(length=0)
    return figure, {"points0": words}
