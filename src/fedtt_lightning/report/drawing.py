"""Charts as SVG for pages of both themes, and as PNG and PDF."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.report.charts import Chart, HeatMap, Lines
from fedtt_lightning.wording import human_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each stands out from white and from near-black by 3:1 and more, and from the others for the
# red-green blind; lines differ in their markers and, from the seventh on, in their dashes too.
COLOURS = ("#2f62c5", "#fe0103", "#18903b", "#a872fe", "#d57881", "#c10284")
_MARKERS = ("o", "s", "^", "D", "v", "X", "P")
_DASHES = ("-", "--", ":", "-.")
_INK = "#010203"  # of text and axes; on the page it becomes the colour of the text around
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


def draw_svg(chart: Chart) -> str:
    """Return the chart as an SVG element for HTML: text as text, its words at each point."""
    figure, tips = _draw(chart)
    buffer = io.BytesIO()
    with _style(chart):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _add_tips(root, tips)
    _clean(root, chart)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode").replace(_INK, "currentColor")


def draw_file(chart: Chart, kind: str) -> bytes:
    """Return the chart as a file: `png` or `pdf`."""
    figure, _ = _draw(chart)
    metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {}
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
            "svg.fonttype": "none",
            "svg.hashsalt": chart.key,
            "pdf.fonttype": 42,
        }
    )


def _draw(chart: Chart) -> tuple[Figure, dict[str, list[str]]]:
    """Return the figure, and by the id of each group of points the words at its points."""
    with _style(chart):
        return _draw_map(chart) if isinstance(chart, HeatMap) else _draw_lines(chart)


def _draw_lines(chart: Lines) -> tuple[Figure, dict[str, list[str]]]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullLocator

    curves = list(chart.drawn())
    figure = Figure(figsize=(5, 2.9 + 0.2 * len(curves)), layout="constrained")
    axes = figure.add_subplot()
    handles, tips = [], {}
    for index, _, points, words in curves:
        x, y, sd = zip(*points, strict=True)
        style: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "linestyle": _DASHES[index // len(COLOURS) % len(_DASHES)],
            "marker": _MARKERS[index % len(_MARKERS)],
        }
        (line,) = axes.plot(x, y, markersize=4, linewidth=1.4, **style)
        line.set_gid(f"points{index}")
        tips[f"points{index}"] = words
        handles.append(line)
        if any(sd):
            low, high = ([b + sign * s for b, s in zip(y, sd, strict=True)] for sign in (-1, 1))
            axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(color="#888888", alpha=0.25, linewidth=0.6)
    if chart.y_label == "% of clients":
        axes.set_ylim(0, 105)
    if chart.in_bytes:
        sent = [x for _, _, points, _ in curves for x, _, _ in points]
        ticks = np.unique(np.geomspace(min(sent), max(sent), 4))
        axes.set_xscale("log")
        axes.set_xticks(ticks, [human_bytes(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    elif chart.x_label in ("round", "visits"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    labels = [label for _, label, _, _ in curves]
    figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=8)
    return figure, tips


def _draw_map(chart: HeatMap) -> tuple[Figure, dict[str, list[str]]]:
    import matplotlib
    from matplotlib.figure import Figure

    counts, words = chart.drawn()
    clients, labels = counts.shape
    figure = Figure(figsize=(5, min(1.4 + 0.22 * clients, 8)), layout="constrained")
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["cividis"].resampled(32)
    mesh = axes.pcolormesh(counts, cmap=colours, edgecolors="none", vmin=0)
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


def _add_tips(root: ElementTree.Element, tips: dict[str, list[str]]) -> None:
    """Put what a browser shows over a point into it, as a <title>."""
    for name, words in tips.items():
        (group,) = root.findall(f".//*[@id='{name}']")
        points = list(group.iter(f"{{{_SVG}}}use"))
        if not points:  # cells of a map are paths
            points = list(group.iter(f"{{{_SVG}}}path"))
        assert len(points) == len(words), f"{len(points)} points have {len(words)} tips"
        for point, text in zip(points, words, strict=True):
            ElementTree.SubElement(point, f"{{{_SVG}}}title").text = text


def _clean(root: ElementTree.Element, chart: Chart) -> None:
    """Make the drawing as wide as the page, and its ids unlike those of other drawings."""
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for size in ("width", "height"):
        root.attrib.pop(size)
    root.attrib |= {"role": "img", "aria-label": chart.title}
    links = [(node, key) for node in root.iter() for key in node.attrib]
    used = "".join(node.attrib[key] for node, key in links if key != "id")
    for node in root.iter():
        name = node.attrib.get("id")
        if name and f"#{name}" not in used:
            del node.attrib["id"]
    for node, key in links:
        value = node.attrib.get(key, "")
        if key == "id" and value:
            node.set(key, f"{chart.key}-{value}")
        elif key.endswith("href") and value.startswith("#"):
            node.set(key, f"#{chart.key}-{value[1:]}")
        elif "url(#" in value:
            node.set(key, value.replace("url(#", f"url(#{chart.key}-"))
