"""Plots in one style, small enough for the Dagster UI.

They are drawn without global state and rendered as palette PNG.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2937"
FAINT = "#d1d5db"
ACCENT = "#15803d"
# Told apart by people with the common colour-vision deficiencies, and on paper.
PALETTE = ("#15803d", "#d97706", "#2563eb", "#be185d", "#64748b", "#0e7490", "#7c3aed", "#92400e")


def figure(columns: int = 1, width: float = 5.6, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A new figure with `columns` axes side by side, in the project's style.

    Each of the axes is `width` by `height` inches.
    """
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width * columns, height), layout="constrained", facecolor="white")
    axes = [drawn.add_subplot(1, columns, index + 1) for index in range(columns)]
    for each in axes:
        style(each)
    return drawn, axes


def style(axes: Axes) -> None:
    """Give axes the project's style (also for axes that another library drew)."""
    axes.set_prop_cycle(color=PALETTE)
    axes.set_facecolor("white")
    axes.set_axisbelow(True)
    axes.grid(True, color=FAINT, linewidth=0.6, alpha=0.7)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT)


def label(axes: Axes, title: str, x: str = "", y: str = "", legend: bool = False) -> None:
    """Title, axis labels and, where there is more than one thing to tell apart, the legend."""
    # A title whose height is given is not placed anew, by measuring every tick, each time that the
    # figure is drawn.
    axes.set_title(title, fontsize=10, color=INK, loc="left", y=1.0)
    axes.set_xlabel(x, fontsize=8.5, color=INK)
    axes.set_ylabel(y, fontsize=8.5, color=INK)
    if legend:
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)


def lines(
    series: Mapping[str, Sequence[float]],
    title: str,
    x: str,
    y: str,
    at: Sequence[object] | None = None,
) -> Figure:
    """One line for each named series, over `at` or over 1, 2, 3, ..."""
    drawn, (axes,) = figure()
    for name, values in series.items():
        places = range(1, len(values) + 1) if at is None else at
        axes.plot(places, values, label=name, linewidth=1.6)  # type: ignore[arg-type]
    label(axes, title, x, y, legend=len(series) > 1)
    return drawn


def bars(values: Mapping[str, float], title: str, x: str, limit: int = 15) -> Figure:
    """Horizontal bars, greatest first, at most `limit` of them."""
    shown = sorted(values.items(), key=lambda item: (-item[1], item[0]))[:limit]
    drawn, (axes,) = figure(height=max(1.6, 0.5 + 0.21 * len(shown)))
    axes.barh(
        [name for name, _ in reversed(shown)],
        [value for _, value in reversed(shown)],
        color=ACCENT,
        height=0.7,
    )
    axes.grid(False, axis="y")
    label(axes, title, x)
    return drawn


def png(figure: Figure, dpi: int = 80) -> bytes:
    """The figure as a PNG of at most 48 colours, a few kilobytes.

    Equal figures give equal bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    # Not `savefig`, which draws twice where a layout is computed, and encodes a PNG of all colours.
    canvas.draw()
    image = Image.frombuffer(
        "RGBA", canvas.get_width_height(), canvas.buffer_rgba(), "raw", "RGBA", 0, 1
    )
    reduced = io.BytesIO()
    image.convert("RGB").quantize(colors=48, dither=Image.Dither.NONE).save(
        reduced, format="png", optimize=True
    )
    return reduced.getvalue()


def markdown_image(content: bytes, title: str = "plot") -> str:
    """A PNG as a Markdown image that the Dagster UI shows in place."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(content).decode()})"


def inline_image(figure: Figure, title: str = "plot") -> str:
    """A figure as a Markdown image that the Dagster UI shows in place.

    Use it as `dg.MetadataValue.md(inline_image(figure))`.
    """
    return markdown_image(png(figure), title)
