"""Changes to the JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path


def change_json(path: Path, **changes: object) -> None:
    """Rewrite keys of a JSON object."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
