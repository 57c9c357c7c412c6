"""What is remembered of uploads that are not finished, so that a later command goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ollama_bridge.digests import digest_text
from ollama_bridge.registry.session import RegistrySession
from ollama_bridge.storage.atomic_files import raise_if_disk_full, write_text_atomic


@dataclass(frozen=True)
class Unfinished:
    """An upload to go on with, if it has an address; chunks of size 0: it is not known."""

    location: str = ""
    chunk_bytes: int = 0


class UploadRecords:
    """Remembers where unfinished uploads go on; one small private file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, session: RegistrySession, digest: str) -> Path:
        """The record of one file in one repository."""
        reference = session.reference
        key = digest_text(f"{reference.origin}/{reference.repository}@{digest}")
        return self._folder / f"{key[:32]}.json"

    def read(self, session: RegistrySession, digest: str) -> Unfinished:
        """The unfinished upload of a file; nothing where there is none."""
        try:
            data = json.loads(self.path(session, digest).read_bytes())
            found = Unfinished(data["location"], data.get("chunk_bytes", 0))
        except (OSError, ValueError, KeyError, TypeError):
            return Unfinished()
        sound = isinstance(found.location, str) and isinstance(found.chunk_bytes, int)
        # Records of a registry that lets us upload elsewhere are not kept; nor believed.
        return found if sound and session.is_own(found.location) else Unfinished()

    def write(self, session: RegistrySession, digest: str, found: Unfinished) -> None:
        """Remember an unfinished upload.

        Raises:
            DiskFullError: no room.
        """
        if not session.is_own(found.location):
            return
        path = self.path(session, digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Its address alone may allow to write there.
            write_text_atomic(path, json.dumps(asdict(found)), private=True)
        except OSError as exc:
            raise_if_disk_full(exc, path)
            raise

    def forget(self, session: RegistrySession, digest: str) -> None:
        """The upload is finished or lost."""
        self.path(session, digest).unlink(missing_ok=True)
