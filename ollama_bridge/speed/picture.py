"""Speeds as a picture: an SVG of our own, for a few bars need no library."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from ollama_bridge.speed.rates import TagSpeed

_WIDTH, _LEFT, _RIGHT, _TOP, _BAR = 900, 200, 280, 56, 20
_COLOURS = ("#0b6e4f", "#b3541e", "#34558b", "#7a4b8c")
_INK = "#333"


def draw(speeds: Sequence[TagSpeed]) -> str:
    """An SVG: tokens a second of all requests together, at every concurrency of every tag.

    Beside each bar stands the time to the first token; beside that of one request what memory
    allows one.
    """
    bars = [(speed, one) for speed in speeds for one in speed.measured]
    longest = max((one.throughput for _, one in bars), default=1.0) or 1.0
    height = _TOP + len(bars) * (_BAR + 6) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        '<text x="16" y="24" font-size="15">Tokens a second of all requests together</text>',
    ]
    for number, (speed, one) in enumerate(bars):
        y = _TOP + number * (_BAR + 6)
        width = one.throughput / longest * (_WIDTH - _LEFT - _RIGHT)
        colour = _COLOURS[speeds.index(speed) % len(_COLOURS)]
        words = [f"{one.throughput:.1f}"]
        if one.first_token_s is not None:
            words.append(f"first {one.first_token_s.p50:.2f} s")
        if one.concurrency == 1 and speed.bound_rate is not None:
            words.append(f"memory allows {speed.bound_rate:.0f}")
        parts += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">'
            f"{escape(one.tag[:24])} x{one.concurrency}</text>",
            f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{_LEFT + width + 6:.1f}" y="{y + 14}">{", ".join(words)}</text>',
        ]
    parts.append("</svg>")
    return "\n".join(parts) + "\n"
