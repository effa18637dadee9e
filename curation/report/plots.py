"""The plots of the page: matplotlib's SVG, made to follow the page's colours and fonts.

No text by strangers stands in a plot, so that nothing needs to be kept from matplotlib's markup.
"""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Drawn with these, which the page replaces by its own: one colour for what is measured, ink for the rest.
_ACCENT, _INK, _RULE, _SOFT = "#010203", "#040506", "#070809", "#0a0b0c"
_VARIABLES = {_ACCENT: "var(--accent)", _INK: "var(--ink)", _RULE: "var(--rule)", _SOFT: "var(--soft)"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "ytick.major.size": 0,
    "text.color": _INK,
    "font.size": 11,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_INCHES = (5.4, 2.4)


def component_sizes(sizes: dict[int, int], name: str) -> Markup:
    """How many clusters there are of each size, {documents: clusters}; no other plot on the page has this `name`."""
    return _drawn(_draw_sizes, name, "Clusters by their number of documents", sizes)


def similarities(histogram: list[list[float]], threshold: float | None, name: str) -> Markup:
    """How many of the sampled pairs have which similarity; `histogram` holds [low, high, pairs]."""
    return _drawn(_draw_similarities, name, "Sampled pairs by their true similarity", histogram, threshold)


def _draw_sizes(figure: Figure, sizes: dict[int, int]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    largest, most = max(*sizes, 10), max(*sizes.values(), 10)
    points = _apart(sizes)
    axes.plot([n for n, _ in points], [number for _, number in points], "o", color=_ACCENT, markersize=4.5, clip_on=False)
    axes.set_xlim(1.8, 1.2 * largest)
    axes.set_ylim(0.7, 1.5 * most)
    for axis, ticks in ((axes.xaxis, _ticks(2, largest)), (axes.yaxis, _ticks(1, most))):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_ticks(ticks)
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("documents in a cluster")
    axes.set_ylabel("clusters")


def _apart(sizes: dict[int, int]) -> list[tuple[int, int]]:
    """The points, without those that would lie on another one; at most some hundred of them."""
    seen: dict[tuple[int, int], tuple[int, int]] = {}
    for size, number in sorted(sizes.items()):
        seen.setdefault((round(40 * math.log10(size)), round(20 * math.log10(number))), (size, number))
    return list(seen.values())


def _ticks(first: int, last: int) -> list[int]:
    """Some six round numbers on a logarithmic scale.

    >>> _ticks(2, 50), _ticks(1, 3_000_000)
    ([2, 5, 10, 20, 50], [1, 10, 100, 1000, 10000, 100000, 1000000])
    """
    fine = [step * 10**power for power in range(13) for step in (1, 2, 5) if first <= step * 10**power <= last]
    coarse = [n for n in fine if str(n).startswith("1")]
    return fine if len(fine) <= 7 else coarse if len(coarse) <= 7 else coarse[::2]


def _draw_similarities(figure: Figure, histogram: list[list[float]], threshold: float | None) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes = figure.add_subplot()
    lows, highs, pairs = zip(*histogram, strict=True)
    widths = [0.9 * (high - low) for low, high in zip(lows, highs, strict=True)]
    below = [threshold is not None and high <= threshold + 1e-9 for high in highs]
    for chosen, alpha in ((True, 0.4), (False, 1.0)):
        kept = [index for index, is_below in enumerate(below) if is_below == chosen]
        middles = [(lows[index] + highs[index]) / 2 for index in kept]
        axes.bar(middles, [pairs[i] for i in kept], [widths[i] for i in kept], color=_ACCENT, alpha=alpha, linewidth=0)
    if threshold is not None:
        axes.axvline(threshold, color=_INK, linewidth=1)
        at_left = threshold > 0.5
        axes.annotate(
            "threshold", (threshold, 1), (-4 if at_left else 4, -2), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="right" if at_left else "left", va="top",
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.25 * max(*pairs, 1))  # room for the word beside the line
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1f}"))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("similarity of a removed document and its kept copy")
    axes.set_ylabel("pairs")


def _drawn(draw: Any, name: str, title: str, *arguments: Any) -> Markup:
    """What `draw` puts on a figure, as SVG that inherits the page's colours; the same bytes for the same arguments."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(_INCHES, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        draw(figure, *arguments)
        file = io.StringIO()
        canvas.print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Markup(_adapted(file.getvalue(), title, name))


def _adapted(svg: str, title: str, name: str) -> str:
    """The `<svg>` element alone; styles become attributes, which a strict content security policy allows."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' style="([^"]*)"', lambda match: _attributes(match[1]), svg)
    # Ids are the document's: two plots on a page must not share them.
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    head, _, rest = svg.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    return f'<svg class="plot" {box[0]} role="img" aria-label="{title}" xmlns:xlink="http://www.w3.org/1999/xlink">{rest}'


def _attributes(style: str) -> str:
    """`fill: none; stroke: #000` as presentation attributes, without fonts, which are the page's."""
    pairs = (declaration.partition(":") for declaration in style.split(";") if ":" in declaration)
    kept = {name.strip(): value.strip() for name, _, value in pairs if not name.strip().startswith("font")}
    return "".join(f' {name}="{value}"' for name, value in kept.items())
