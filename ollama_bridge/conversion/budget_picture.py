"""The trade-off as a picture: an SVG of our own, for a curve and a few points need no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from ollama_bridge.conversion.budget import Chosen, Point

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 40, 56
_OURS, _THEIRS, _INK = "#0b6e4f", "#b3541e", "#333"
_LEAST_NATS = 1e-9  # below, a logarithm has nothing to show


def draw(chosen: Chosen) -> str:
    """An SVG: file size against divergence, ours as a curve and presets as points."""
    curve = [Point("", size, kl) for size, kl in chosen.curve if kl > _LEAST_NATS]
    points = [*chosen.presets, chosen.point]
    axes = _Axes([*curve, *(point for point in points if point.kl_nats > _LEAST_NATS)])
    line = " ".join(f"{axes.x(point):.1f},{axes.y(point):.1f}" for point in curve)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">Mean KL to the float model, by file size</text>',
        *axes.lines(),
        f'<polyline points="{line}" fill="none" stroke="{_OURS}" stroke-width="2"/>',
        *(_dot(axes, preset, _THEIRS, below=-6) for preset in chosen.presets),
        _dot(axes, chosen.point, _OURS, below=16),
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">points: measured on {escape(chosen.texts)}; '
        "curve: estimate, through the chosen file</text>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Axes:
    """Size is linear, divergence logarithmic."""

    def __init__(self, points: Sequence[Point]) -> None:
        sizes = [point.size_bytes for point in points] or [1]
        logs = [math.log10(point.kl_nats) for point in points] or [0.0]
        self._low, self._high = min(sizes), max(sizes) + 1
        self._bottom, self._top = math.floor(min(logs)), math.floor(max(logs)) + 1

    def x(self, point: Point) -> float:
        """From the left."""
        share = (point.size_bytes - self._low) / (self._high - self._low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, point: Point) -> float:
        """From the top."""
        return self._y(math.log10(max(point.kl_nats, 10.0**self._bottom)))

    def _y(self, log: float) -> float:
        share = (self._top - log) / (self._top - self._bottom)
        return _TOP + share * (_HEIGHT - _TOP - _BOTTOM)

    def lines(self) -> list[str]:
        """Grid and labels: every power of ten, and six sizes."""
        parts = []
        for power in range(self._bottom, self._top + 1):
            y = self._y(power)
            parts += [
                f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                'stroke="#ddd"/>',
                f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>',
            ]
        for step in range(6):
            size_bytes = round(self._low + step / 5 * (self._high - self._low))
            x = self.x(Point("", size_bytes, 1.0))
            parts.append(
                f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
                f"{size_bytes / 1e6:.4g} MB</text>"
            )
        parts.append(f'<text x="8" y="{_TOP - 8}">nats</text>')
        return parts


def _dot(axes: _Axes, point: Point, colour: str, *, below: int) -> str:
    x, y = axes.x(point), axes.y(point)
    anchor, shift = ("end", -8) if x > _WIDTH * 0.8 else ("start", 8)
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
        f'<text x="{x + shift:.1f}" y="{y + below:.1f}" text-anchor="{anchor}" fill="{colour}">'
        f"{escape(point.name)} ({point.kl_nats:.2g})</text>"
    )
