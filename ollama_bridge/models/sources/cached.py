"""Checkpoints in the cache, each filed by the digest of what it was made of.

That is a GGUF, a folder, or a base and an adapter. Weights are linked and not copied: what is
quantized is decoded, and what is adapted merged, when it is read. A link shares what is written
into its file, so what is found again is linked anew to what was read just now.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ollama_bridge.digests import canonical_json, digest_file, digest_text, has_digest, quick_digest
from ollama_bridge.errors import ArtifactError
from ollama_bridge.models.safety import check_folder, read_config
from ollama_bridge.models.settings.left_overs import (
    drop_left_overs,
    rows_not_saved,
    tokens_without_rows,
)
from ollama_bridge.models.settings.processor_template import (
    PROCESSOR_TEMPLATE,
    processor_template,
    write_template,
)
from ollama_bridge.models.settings.settings_check import check_sampling, check_settings_of_tokens
from ollama_bridge.models.settings.small_files import SMALL_FILES
from ollama_bridge.models.sources.gguf_import import import_gguf
from ollama_bridge.models.sources.links import file_state, link_file, linked_digests
from ollama_bridge.models.sources.merge import combine_adapter, link_parts
from ollama_bridge.models.sources.origin import base_facts
from ollama_bridge.models.weights.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ollama_bridge.models.weights.files import INDEX_NAME
from ollama_bridge.models.weights.gguf import GGUF_NAME
from ollama_bridge.models.weights.stored import weights_files_of
from ollama_bridge.models.weights.text_part import TEXT_ALONE, is_wrapper
from ollama_bridge.reporting import Note, Reporter, Timed
from ollama_bridge.storage.artifacts import MANIFEST_NAME, Checkpoint, Work
from ollama_bridge.storage.drafts import Draft, open_draft

# Raised when other bytes come of the same input; labels and trainings begin with these.
_IMPORT_VERSION = 8
_LINK_VERSION = 3
_MERGE_VERSION = 6
_WHY_MERGED = "Ollama from 0.34.1 on accepts no LoRA adapter (for older ones there is --adapter)"

_FileState = tuple[int, int, int]  # of ``file_state``


def is_imported(path: Path, digest: str, *, cache_dir: Path) -> bool:
    """Whether a GGUF is the very file of the import under a digest."""
    known = _import_dir(cache_dir, digest) / GGUF_NAME
    return known.is_file() and known.samefile(path)


def import_file(
    path: Path,
    digest: str,
    before: _FileState,
    *,
    source: str,
    cache_dir: Path,
    reporter: Reporter,
) -> Checkpoint:
    """The checkpoint of a GGUF.

    Args:
        before: Its state when it was not hashed yet.

    Raises:
        ModelError: it is damaged, or nothing that can be trained here.
        ArtifactError: it changed meanwhile.
        DiskFullError: there is no room.
    """
    out_dir, sha256 = _import_dir(cache_dir, digest), f"sha256:{digest}"
    work = Work(
        kind=Checkpoint.kind, stage="import", version=_IMPORT_VERSION, inputs={"gguf": digest}
    )
    with Timed(reporter, "import") as timer, _open_cached(out_dir, work, reporter) as draft:
        if draft.finished is not None:
            link_file(path, out_dir / GGUF_NAME)
            if _has_changed(out_dir / GGUF_NAME, before, sha256):
                raise _changed(path)
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        facts = {"source": source, **import_gguf(path, draft.path, reporter=reporter)}
        if _has_changed(draft.path / GGUF_NAME, before, sha256):
            raise _changed(path)
        manifest = draft.commit(facts, digests={GGUF_NAME: sha256})
        timer.finish(out_dir, facts)
        return Checkpoint(out_dir, manifest)


def link_folder(folder: Path, *, cache_dir: Path, reporter: Reporter) -> Checkpoint:
    """The checkpoint of a Hugging Face folder: its small files without left-overs, its weights.

    Raises:
        ModelError: it cannot be used.
        ArtifactError: it changed meanwhile.
        DiskFullError: there is no room.
    """
    small = ("config.json", *SMALL_FILES, INDEX_NAME)
    names = [name for name in small if (folder / name).is_file()]
    copied = _states(folder, names)
    config = check_folder(folder)
    weights = [path.name for path in weights_files_of(folder)]
    linked = _states(folder, weights)
    digests = {name: f"sha256:{digest_file(folder / name)}" for name in names}
    digests |= {name: quick_digest(folder / name) for name in weights}
    digest = digest_text(canonical_json(digests))
    out_dir = cache_dir / f"folder-{digest[:16]}"
    if not (out_dir / MANIFEST_NAME).is_file():
        check_settings_of_tokens(folder, config)
        check_sampling(folder)
    template = processor_template(folder)
    work = Work(
        kind=Checkpoint.kind,
        stage="link",
        version=_LINK_VERSION,
        inputs={"folder": digest},
        # Its file is not copied, so it is none of the folder's.
        settings={"processor_template": digest_text(template)} if template is not None else {},
    )
    with Timed(reporter, "import") as timer, _open_cached(out_dir, work, reporter) as draft:
        if draft.finished is not None:
            for name in weights:
                link_file(folder / name, out_dir / name)
            _check_unchanged(linked, digests, out_dir, folder)
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        if template is not None:
            write_template(draft.path, template)
            said = f"the chat template is its processor's ({PROCESSOR_TEMPLATE})"
            reporter.emit(Note("import", "info", f"{folder.name}: {said}"))
        _copy_small_files(folder, draft.path, names, config, reporter)
        for name in weights:
            link_file(folder / name, draft.path / name)
        _check_unchanged(copied, digests, folder, folder)
        _check_unchanged(linked, digests, draft.path, folder)
        facts = {"source": str(folder)}
        manifest = draft.commit(facts, digests={name: digests[name] for name in weights})
        timer.finish(out_dir, facts)
        return Checkpoint(out_dir, manifest)


def merge_adapter(
    adapter: Path, base: Checkpoint, *, cache_dir: Path, reporter: Reporter
) -> Checkpoint:
    """The checkpoint of a base and a PEFT adapter, which is merged into it when it is read.

    Raises:
        ModelError: the adapter does not fit the base, or uses what cannot be merged.
        ArtifactError: the adapter changed meanwhile.
        DiskFullError: there is no room.
    """
    # What a training leaves beside them (an optimizer's state is gigabytes) is not even opened.
    names = {ADAPTER_CONFIG, ADAPTER_WEIGHTS, *SMALL_FILES}
    files = [name for name in sorted(names) if (adapter / name).is_file()]
    before = _states(adapter, files)
    digests = {name: f"sha256:{digest_file(adapter / name)}" for name in files}
    work = Work(
        kind=Checkpoint.kind,
        stage="merge",
        version=_MERGE_VERSION,
        inputs={"adapter": digest_text(canonical_json(digests)), "base": base.digest},
    )
    out_dir = cache_dir / f"merged-{work.key[:16]}"
    reporter.emit(
        Note("merge", "info", f"{adapter.name} is read merged into its base: {_WHY_MERGED}")
    )
    with Timed(reporter, "merge") as timer, _open_cached(out_dir, work, reporter) as draft:
        if draft.finished is not None:
            link_parts(base.path, adapter, out_dir)
            _check_unchanged(before, digests, adapter, adapter)
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        combined = combine_adapter(base.path, adapter, draft.path)
        _check_unchanged(before, digests, adapter, adapter)
        if combined.left_out:
            said = f"{adapter.name}: {rows_not_saved(combined.left_out)}"
            reporter.emit(Note("merge", "warning", said))
        facts = {
            "source": str(adapter),
            "merged_matrices": combined.merged_matrices,
            **base_facts(base),
        }
        manifest = draft.commit(facts, digests=linked_digests(base, draft.path))
        timer.finish(out_dir, facts)
        return Checkpoint(out_dir, manifest)


def _import_dir(cache_dir: Path, digest: str) -> Path:
    return cache_dir / f"gguf-{digest[:16]}"


def _open_cached(out_dir: Path, work: Work, reporter: Reporter) -> AbstractContextManager[Draft]:
    """A draft in the cache, which all runs share."""
    note = Note("import", "info", "another process is importing the same model; waiting for it")
    return open_draft(out_dir, work, on_wait=lambda: reporter.emit(note))


def _copy_small_files(
    folder: Path, to: Path, names: Sequence[str], config: Mapping[str, Any], reporter: Reporter
) -> None:
    """Copy them without what is left over; what is not as it came is told."""
    for name in names:
        (to / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / name, to / name)
    if is_wrapper(read_config(folder)):
        (to / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        reporter.emit(Note("import", "warning", f"{folder.name}: {TEXT_ALONE}"))
    tokens = tokens_without_rows(folder, config).idle
    for said in drop_left_overs(to, tokens=tokens):
        reporter.emit(Note("import", "info", f"{folder.name}: {said}"))


def _states(folder: Path, names: Sequence[str]) -> dict[str, _FileState]:
    return {name: file_state(folder / name) for name in names}


def _has_changed(path: Path, before: _FileState, digest: str) -> bool:
    """Whether a file is not the one that was hashed.

    Another state alone does not say so. A link can give the file itself a new inode (a container's
    overlay copies it up from the image), a network disk numbers as it likes, and a daemon that
    links a blob sets its time. So what looks changed is hashed once more.
    """
    return file_state(path) != before and not has_digest(path, digest)


def _check_unchanged(
    before: Mapping[str, _FileState], digests: Mapping[str, str], now: Path, folder: Path
) -> None:
    """Of files that were hashed before they were read.

    While there is only a draft: under the digest of earlier bytes it would be found by them later.
    """
    changed = [
        name for name, state in before.items() if _has_changed(now / name, state, digests[name])
    ]
    if changed:
        raise _changed(folder, changed)


def _changed(source: Path, names: Sequence[str] = ()) -> ArtifactError:
    said = f": {', '.join(names)}" if names else ""
    return ArtifactError(
        f"{source} changed while it was read{said}",
        hint="wait until nothing writes to it, and run the command again",
    )
