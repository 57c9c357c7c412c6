"""llama.cpp's own ``llama-quantize``: an oracle for those who have built it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollama_bridge.daemon.layout import RUNNER_PACKAGE


def find_tool(caches: dict[str, str]) -> Path:
    """The tool that ``scripts/build-llama-quantize`` makes; skips where there is none."""
    home = Path(caches["OLLAMA_BRIDGE_ASSETS_DIR"]).parent
    tool = home / "tools" / f"llama.cpp-{RUNNER_PACKAGE.version}" / "llama-quantize"
    if not tool.is_file():
        pytest.skip(f"{tool} is not there: scripts/build-llama-quantize makes it")
    return tool
