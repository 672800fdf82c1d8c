"""A plot as inline SVG: it takes the page's colours, light or dark, and its marks tell their values when pointed at."""

from __future__ import annotations

import io
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping

from matplotlib import rc_context
from matplotlib.figure import Figure

from mnist_sweep.common.text import printable
from mnist_sweep.results.plots import common

# Of the pictures inside.
_DPI = 160
# The variables of the page's style, by the colour in the plot. Black is the colour of the text around the plot.
_COLOURS = {
    "#000000": "currentColor",
    "#ffffff": "var(--card)",
    "#b0b0b0": "var(--grid)",
    common.BLUE: "var(--blue)",
    common.SKY: "var(--sky)",
    common.GREEN: "var(--green)",
    common.ORANGE: "var(--orange)",
    common.VERMILION: "var(--vermilion)",
    common.PURPLE: "var(--purple)",
    common.GREY: "var(--grey)",
    common.DARK: "var(--muted)",
}
_VARIABLES = {colour.lower(): variable for colour, variable in _COLOURS.items()}
_PLACES = ("d", "x", "y", "width", "height", "points", "transform")
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"(?<=url\(#)[\w-]+|(?<=^#)[\w-]+$")
_FONT = re.compile(r"font: (?:(\w+) )?(?:(\d+) )?([\d.]+)px [^;]*")


def as_svg(figure: Figure, name: str, alt: str) -> str:
    """Draws a plot for an HTML page.

    Args:
        figure: The plot. The values of its marks are those that `common.tell` gave them.
        name: A name that no other plot on the page has.
        alt: What the plot shows, for people who cannot see it.

    Returns:
        An `svg` element without a size, whose `viewBox` is in points. Its colours are `currentColor` and the variables
        `--card`, `--grid`, `--muted`, `--blue` and so on. Pictures and marks with a colour map have the class `map`:
        dark colours are the better ones, so a dark page has to invert them.
    """
    file = io.BytesIO()
    # A picture for each image, as a page cannot invert a part of one.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "image.composite_image": False}):
        figure.savefig(file, format="svg", dpi=_DPI, transparent=True, metadata={"Date": None})
    root = ET.fromstring(file.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.tail = None
        element.text = printable(element.text or "", sys.maxsize) if element.tag == "text" else None
    _remove(root, ("metadata", "style"))
    # Short ones, as every mark names one.
    used = dict.fromkeys(found for element in root.iter() for found in _references(element))
    ids = {found: f"{name}{place}" for place, found in enumerate(used)}
    inside = {inner for definitions in root.iter("defs") for inner in definitions.iter()}
    for element in root.iter():
        told = element.get("id", "")
        if told.startswith("{"):
            _tell(element, json.loads(told), inside)
    photos = {picture for group in root.iter("g") if group.get("id") == common.PHOTO for picture in group.iter("image")}
    for element in root.iter():
        _restyle(element, ids, digits=2 if element in inside else 1, photo=element in photos)
    for group in list(root.iter("g")):
        _share_style(group)
    _unwrap(root)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt}
    return ET.tostring(root, encoding="unicode")


def _remove(element: ET.Element, tags: tuple[str, ...]) -> None:
    for child in list(element):
        if child.tag in tags:
            element.remove(child)
        else:
            _remove(child, tags)


def _references(element: ET.Element) -> Iterator[str]:
    """Yields the ids that an element refers to. Colours begin with # too."""
    for key, value in element.attrib.items():
        if key == "href" or "url(#" in value:
            yield from _REFERENCE.findall(value)


def _tell(group: ET.Element, told: dict[str, list[str]], definitions: set[ET.Element]) -> None:
    """Gives marks their values, as titles."""
    texts = told["texts"]
    group.set("class", "told map" if "map" in told else "told")
    marks = [mark for mark in group.iter() if mark.tag in ("use", "path") and mark not in definitions]
    for mark, text in zip([group] if len(texts) == 1 else marks, texts, strict=False):
        title = ET.Element("title")
        title.text = printable(text, sys.maxsize)
        mark.insert(0, title)


def _restyle(element: ET.Element, ids: Mapping[str, str], digits: int, *, photo: bool) -> None:
    named = element.attrib.pop("id", None)
    for key, value in element.attrib.items():
        if key == "href" or "url(#" in value:
            value = _REFERENCE.sub(lambda found: ids.get(found[0], found[0]), value)
        if key in _PLACES and element.tag != "image":
            value = _NUMBER.sub(lambda found: f"{float(found[0]):.{digits}f}".rstrip("0").rstrip("."), value)
            value = " ".join(value.split())
        element.attrib[key] = value
    if named is not None and named in ids:
        element.set("id", ids[named])
    style = element.attrib.pop("style", "")
    if element.tag == "image" and not photo:
        element.set("class", "map")
    if style:
        style = _FONT.sub(lambda found: f"font-size: {found[3]}px" + _weight(found), style)
        parts = [part.split(":", 1) for part in style.split(";") if ":" in part]
        pairs = [(key.strip(), _VARIABLES.get(value.strip().lower(), value.strip())) for key, value in parts]
        element.set("style", ";".join(f"{key}:{value}" for key, value in pairs))


def _weight(found: re.Match[str]) -> str:
    return f"; font-weight: {found[2] or found[1]}" if found[2] or found[1] else ""


def _share_style(group: ET.Element) -> None:
    """Moves the style of equal children to their group, which makes the plots of large sweeps much smaller."""
    for key in ("style", "clip-path"):
        children = [child for child in group if child.tag in ("use", "path", "g")]
        values = {child.get(key) for child in children}
        alone = len(children) == len([child for child in group if child.tag not in ("defs", "title")])
        if alone and len(children) > 2 and len(values) == 1 and None not in values and key not in group.attrib:
            group.set(key, str(values.pop()))
            for child in children:
                del child.attrib[key]


def _unwrap(element: ET.Element) -> None:
    """Replaces groups that say nothing by what is in them."""
    for child in list(element):
        _unwrap(child)
    children: list[ET.Element] = []
    for child in element:
        children += list(child) if child.tag == "g" and not child.attrib and child.find("title") is None else [child]
    element[:] = [child for child in children if not (child.tag in ("defs", "g") and not len(child))]
