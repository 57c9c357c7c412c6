"""A checkpoint with a chat template that the user gives, for one that has none, or a wrong one."""

from __future__ import annotations

from pathlib import Path

from ollama_bridge.digests import digest_text
from ollama_bridge.errors import ModelError
from ollama_bridge.models.settings.processor_template import write_template
from ollama_bridge.models.settings.small_files import CHAT_TEMPLATE
from ollama_bridge.models.sources.links import link_file, linked_digests
from ollama_bridge.models.sources.origin import facts_of_copy
from ollama_bridge.models.template_trial import check_chat_template
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed
from ollama_bridge.storage.artifacts import Checkpoint, Work
from ollama_bridge.storage.drafts import open_draft

# Of another chat template: one by another name, and what a model was seen to do with it.
_OF_ANOTHER = ("additional_chat_templates/", "reference.json")


def with_chat_template(
    checkpoint: Checkpoint, file: Path, *, cache_dir: Path, reporter: Reporter | None = None
) -> Checkpoint:
    """The same weights and tokens with another chat template (files are linked).

    Raises:
        ModelError: the file cannot be read, is empty, or does not end.
    """
    text = read_chat_template(file)
    work = Work(
        kind=Checkpoint.kind,
        stage="link",
        version=2,
        inputs={"checkpoint": checkpoint.digest},
        settings={"chat_template": digest_text(text)},
    )
    out_dir = cache_dir / f"template-{work.key[:16]}"
    reporter = reporter or NullReporter()
    note = Note("import", "info", "another process is writing the same template; waiting for it")
    with (
        Timed(reporter, "import") as timer,
        open_draft(out_dir, work, on_wait=lambda: reporter.emit(note)) as draft,
    ):
        folder = draft.path if draft.finished is None else out_dir
        for name in checkpoint.manifest.files:
            if name != CHAT_TEMPLATE and not name.startswith(_OF_ANOTHER):
                link_file(checkpoint.path / name, folder / name)
        if draft.finished is not None:
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        write_template(draft.path, text)
        digests = linked_digests(checkpoint, draft.path)
        manifest = draft.commit(facts_of_copy(checkpoint), digests=digests)
        timer.finish(out_dir, manifest.facts)
        return Checkpoint(out_dir, manifest)


def read_chat_template(file: Path) -> str:
    """A chat template that can be rendered.

    Raises:
        ModelError: the file cannot be read, is empty, or does not end.
    """
    try:
        text = file.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelError(
            f"{file} cannot be read: {exc}", hint="name a file with a chat template in Jinja"
        ) from exc
    if not text.strip():
        raise ModelError(f"{file} is empty", hint="name a file with a chat template in Jinja")
    check_chat_template(text, where=str(file), hint=f"fix {file}, or name another file")
    return text
