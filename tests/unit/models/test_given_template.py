"""A checkpoint with a chat template that the user gives."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from fakes.models import build_tiny_checkpoint

from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.sources.given_template import with_chat_template
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.reporting import Event, Note, NullReporter
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.storage.drafts import open_draft


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


def test_weights_overwritten_in_place_are_not_those_that_are_used_again(tmp_path: Path) -> None:
    """Nor are they, in the folders behind an import, where a copy of the former comes back."""
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")

    def made(folder: Path) -> Checkpoint:
        given = resolve_model(str(folder), cache_dir=tmp_path / "models", chat_template=template)
        return with_reference_values(
            given, system=None, noise_types=(), out_dir=tmp_path / "values"
        )

    folder = build_tiny_checkpoint(tmp_path / "model")
    saved = Path(shutil.copytree(folder, tmp_path / "saved"))
    first = made(folder)
    other = build_tiny_checkpoint(tmp_path / "other", seed=1)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    again = made(saved)
    assert again.digest == first.digest
    for path in (again.path, *(tmp_path / "models").iterdir()):
        if path.is_dir():
            Checkpoint.open(path, verify_digests=True)
