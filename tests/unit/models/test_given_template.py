"""A checkpoint with a chat template that the user gives."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ollama_bridge.drafts import open_draft
from ollama_bridge.models.given_template import with_chat_template
from ollama_bridge.models.resolve import resolve_model
from ollama_bridge.reporting import Event, Note, NullReporter


def test_who_writes_the_same_is_waited_for(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """All runs share the folder: no --out would help."""
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    checkpoint = resolve_model(str(tiny_checkpoint), cache_dir=tmp_path / "models")
    first = with_chat_template(checkpoint, template, cache_dir=tmp_path / "models")
    other_process = contextlib.ExitStack()

    class Waiting(NullReporter):
        def emit(self, event: Event) -> None:
            if isinstance(event, Note) and "waiting for it" in event.message:
                other_process.close()

    with other_process:
        other_process.enter_context(open_draft(first.path, first.manifest.work))
        again = with_chat_template(
            checkpoint, template, cache_dir=tmp_path / "models", reporter=Waiting()
        )
    assert again.digest == first.digest
