"""SVG as matplotlib writes it, made one with its page: its words at each mark, its ids its own."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"
_ROOM = 22  # points above the drawing, for the words of the mark under the mouse or finger
# Without a script: a <title> would not be shown to a finger, nor at once.
_STYLE = """
.mark { cursor: pointer }
.mark > text { display: none; fill: currentColor; font-weight: bold }
.mark:hover > text { display: inline }
.mark:hover > :not(text) { stroke: currentColor; stroke-width: 1.5 }
"""


def finished_svg(svg: bytes, name: str, title: str, words: dict[str, list[str]]) -> Element:
    """Return a drawing as an element for HTML or a file of its own.

    Args:
        name: of the drawing, with which its ids begin.
        title: for those who do not see it.
        words: by the id of each group of marks the words at each of them, in one or two lines.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(_tag("metadata")):
        root.remove(metadata)
    for size in ("width", "height"):
        root.attrib.pop(size)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    root.attrib |= {
        "role": "img",
        "aria-label": title,
        "viewBox": f"0 {-_ROOM} {width:g} {height + _ROOM:g}",
    }
    for group, said in words.items():
        _add_words(root, group, said, width)
    _own_ids(root, name)
    style = Element(_tag("style"))
    style.text = _STYLE
    root.insert(0, style)
    return root


def as_text(root: Element) -> str:
    """Return an element as text."""
    return ElementTree.tostring(root, encoding="unicode")


def _tag(name: str) -> str:
    return f"{{{_SVG}}}{name}"


def _add_words(root: Element, name: str, words: list[str], width: float) -> None:
    (group,) = root.findall(f".//*[@id='{name}']")
    # Points are uses of one path; cells of a map are paths.
    kind = _tag("path") if group.find(f".//{_tag('use')}") is None else _tag("use")
    places = [
        (parent, index, mark)
        for parent in group.iter()
        for index, mark in enumerate(parent)
        if mark.tag == kind
    ]
    assert len(places) == len(words), f"{len(places)} marks have {len(words)} words"
    for (parent, index, mark), said in zip(places, words, strict=True):
        parent[index] = _mark(mark, said, width)


def _mark(drawn: Element, said: str, width: float) -> Element:
    mark = Element(_tag("g"), {"class": "mark"})
    if drawn.tag == _tag("use"):  # a wider target for a finger
        place = {"cx": drawn.attrib["x"], "cy": drawn.attrib["y"]}
        SubElement(mark, _tag("circle"), {"r": "7", "style": "fill: transparent", **place})
    mark.append(drawn)
    lines = said.split("\n")
    size = min(8.5, width / (0.64 * max(map(len, lines))))
    text = SubElement(mark, _tag("text"), {"style": f"font-size: {size:.1f}px"})
    for number, line in enumerate(lines):
        place = {"x": "4", "y": str(-13 + 10 * number)}
        SubElement(text, _tag("tspan"), place).text = line
    return mark


def _own_ids(root: Element, name: str) -> None:
    links = [(node, key) for node in root.iter() for key in node.attrib]
    used = "".join(node.attrib[key] for node, key in links if key != "id")
    for node in root.iter():
        identity = node.attrib.get("id")
        if identity and f"#{identity}" not in used:
            del node.attrib["id"]
    for node, key in links:
        value = node.attrib.get(key, "")
        if key == "id" and value:
            node.set(key, f"{name}-{value}")
        elif key.endswith("href") and value.startswith("#"):
            node.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            node.set(key, value.replace("url(#", f"url(#{name}-"))
