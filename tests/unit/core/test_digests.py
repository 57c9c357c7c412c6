"""What files are known by."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from blake3 import blake3

from ollama_bridge.digests import digest_file, has_digest, quick_digest


@pytest.mark.parametrize("size_bytes", [0, 1, (1 << 22) - 1, 1 << 22, 3 * (1 << 22) + 5])
def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path, size_bytes: int) -> None:
    """Whether it ends inside a block, with one, or before the first."""
    file = tmp_path / "weights"
    content = bytes(range(251)) * (size_bytes // 251 + 1)
    file.write_bytes(content[:size_bytes])
    sha256, quick = hashlib.sha256(content[:size_bytes]), blake3(content[:size_bytes])
    assert digest_file(file) == sha256.hexdigest()
    assert quick_digest(file) == f"blake3:{quick.hexdigest()}"
    for digest in (f"sha256:{sha256.hexdigest()}", quick_digest(file)):
        assert has_digest(file, digest)
    file.write_bytes(content[:size_bytes] + b"x")
    for digest in (f"sha256:{sha256.hexdigest()}", f"blake3:{quick.hexdigest()}"):
        assert not has_digest(file, digest)


def test_a_digest_is_the_published_one() -> None:
    """BLAKE3 of nothing, as its paper's test vectors have it."""
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert quick_digest(Path("/dev/null")) == f"blake3:{empty}"
