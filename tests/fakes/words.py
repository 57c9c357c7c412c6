"""Words to write texts of."""

from __future__ import annotations

NOUNS = (
    "tea", "cake", "lamp", "boat", "road", "moon", "rain", "film", "book", "song", "game", "shoe",
    "brother", "mother", "screen", "battery", "button", "cable", "handle", "picture", "sound",
    "price", "colour", "smell", "taste", "box", "order", "delivery", "quality",
)  # fmt: skip
