"""From a model reference to a checkpoint on disk, imported at most once.

Everything ends as a Hugging Face folder with a manifest, filed in the cache by the digest of what
it was made of: of a GGUF (given, or found in the daemon's store), a folder, or a base and an
adapter. Weights are linked and not copied: what is quantized is decoded, and what is adapted
merged, when it is read. A tag is therefore pinned: if it moves, its digest is another, and so is
the checkpoint.
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.artifacts import (
    MANIFEST_NAME,
    Checkpoint,
    Manifest,
    Work,
    canonical_json,
    digest_file,
    digest_text,
)
from ollama_bridge.drafts import Draft, open_draft
from ollama_bridge.errors import ArtifactError, ModelError, ModelReferenceError
from ollama_bridge.models.adapter_base import refuse_quantized, refuse_rounded
from ollama_bridge.models.adapter_folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    base_of,
    is_adapter,
    is_called_quantized,
    naming_hint,
)
from ollama_bridge.models.digests_ahead import digests_of
from ollama_bridge.models.hub import download, fetch
from ollama_bridge.models.left_overs import drop_left_overs, rows_not_saved, tokens_without_rows
from ollama_bridge.models.links import file_state, link_file, linked_digests
from ollama_bridge.models.paths import is_dir, is_file
from ollama_bridge.models.processor_template import (
    PROCESSOR_TEMPLATE,
    processor_template,
    write_template,
)
from ollama_bridge.models.references import ModelReference, parse_reference
from ollama_bridge.models.small_files import SMALL_FILES
from ollama_bridge.models.tag_file import file_of_tag
from ollama_bridge.models.weight_files import INDEX_NAME
from ollama_bridge.reporting import Note, NullReporter, Reporter, Timed

if TYPE_CHECKING:
    from ollama_bridge.client import Client

# Raised when an import or a merge gives other bytes for the same input.
_IMPORT_VERSION = 4
_MERGE_VERSION = 5
_WHY_MERGED = "Ollama from 0.34.1 on takes no LoRA adapter (for older ones there is --adapter)"
_MERGED_BESIDE = (
    "it holds a whole model beside an adapter, which is taken to be merged into it (if it is not: "
    "--base names the model that the adapter is for)"
)


def resolve_model(
    reference: str,
    *,
    cache_dir: Path,
    base: str | None = None,
    client: Client | None = None,
    reporter: Reporter | None = None,
) -> Checkpoint:
    """Find a model and make a checkpoint of it.

    Args:
        reference: See :mod:`ollama_bridge.models.references`.
        cache_dir: Where imported checkpoints are kept.
        base: Of a PEFT adapter: reference of the model that it was trained on; None: the one that
            its config names.
        client: Asks the daemon for an ``ollama:`` reference.
        reporter: Told about imports.

    Raises:
        ModelReferenceError: the reference cannot be read, or nothing is there.
        ModelError: what is there cannot be used.
        DaemonError: the daemon does not know the tag, or does not answer.
    """
    reporter = reporter or NullReporter()
    parsed = parse_reference(reference)
    if parsed.kind in ("hf", "folder"):
        hub = parsed.kind == "hf"
        folder = download(parsed) if hub else _existing(parsed.path)
        return _from_folder(folder, cache_dir, reporter, hub=hub, base=base, client=client)
    if base is not None:
        raise _needs_no_base(reference)
    if parsed.kind == "ollama":
        return _from_daemon(parsed, cache_dir, client, reporter)
    path = parsed.path
    if not is_file(path):
        raise ModelReferenceError(f"{path}: no such file", hint="check the path")
    before = file_state(path)
    return _import(path, digest_file(path), before, str(path), cache_dir, reporter)


def _existing(folder: Path) -> Path:
    if not is_dir(folder):
        kind = "is a file, not a folder" if is_file(folder) else "no such folder"
        raise ModelReferenceError(
            f"{folder}: {kind}", hint="give the folder of a checkpoint, or a .gguf file"
        )
    return folder


def _needs_no_base(reference: str | Path) -> ModelReferenceError:
    return ModelReferenceError(
        f"{reference} is no PEFT adapter, so nothing is merged into a base",
        hint="leave --base out",
    )


def _from_daemon(
    reference: ModelReference, cache_dir: Path, client: Client | None, reporter: Reporter
) -> Checkpoint:
    from ollama_bridge.models.gguf_weights import GGUF_NAME

    path, digest = file_of_tag(reference, client)
    known = _import_dir(cache_dir, digest) / GGUF_NAME
    before = file_state(path)
    # Ollama never checks a blob that was linked into its store, so its name proves nothing.
    imported = known.is_file() and known.samefile(path)
    if not imported and digest_file(path) != digest:
        raise ModelError(
            f"{path} is not what its name says: the blob of {reference} was changed",
            hint=f"get the model again: ollama rm {reference.value}, then pull or create it",
        )
    return _import(path, digest, before, str(reference), cache_dir, reporter)


def _import_dir(cache_dir: Path, digest: str) -> Path:
    return cache_dir / f"gguf-{digest[:16]}"


def _open_cached(out_dir: Path, work: Work, reporter: Reporter) -> AbstractContextManager[Draft]:
    """A draft in the cache, which all runs share."""
    note = Note("import", "info", "another process is importing the same model; waiting for it")
    return open_draft(out_dir, work, on_wait=lambda: reporter.emit(note))


def _import(
    path: Path,
    digest: str,
    before: tuple[int, int, int],
    source: str,
    cache_dir: Path,
    reporter: Reporter,
) -> Checkpoint:
    from ollama_bridge.models.gguf_import import import_gguf
    from ollama_bridge.models.gguf_weights import GGUF_NAME

    out_dir = _import_dir(cache_dir, digest)
    work = Work(
        kind=Checkpoint.kind, stage="import", version=_IMPORT_VERSION, inputs={"gguf": digest}
    )
    with Timed(reporter, "import") as timer, _open_cached(out_dir, work, reporter) as draft:
        if draft.finished is not None:
            link_file(path, out_dir / GGUF_NAME)
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        facts = {"source": source, **import_gguf(path, draft.path, reporter=reporter)}
        unchanged = before == file_state(draft.path / GGUF_NAME)
        manifest = draft.commit(facts, digests={GGUF_NAME: digest} if unchanged else None)
        timer.finish(out_dir, facts)
        return Checkpoint(out_dir, manifest)


def _from_folder(
    folder: Path,
    cache_dir: Path,
    reporter: Reporter,
    *,
    hub: bool,
    base: str | None = None,
    client: Client | None = None,
) -> Checkpoint:
    from ollama_bridge.models.safety import check_folder, has_whole_weights, read_config
    from ollama_bridge.models.stored import adapters_of, weights_files_of
    from ollama_bridge.models.text_part import TEXT_ALONE, is_wrapper

    made_here = (folder / MANIFEST_NAME).is_file()
    merged = is_adapter(folder) and base is None and has_whole_weights(folder)
    if merged and not made_here:
        reporter.emit(Note("import", "info", f"{folder.name}: {_MERGED_BESIDE}"))
    elif is_adapter(folder) and not made_here:
        found = resolve_base(
            folder, cache_dir=cache_dir, base=base, client=client, reporter=reporter, hub=hub
        )
        return _with_adapter(folder, found, cache_dir, reporter)
    if base is not None:
        raise _needs_no_base(folder)
    if made_here:
        return Checkpoint.open(folder)
    if inside := adapters_of(folder):
        raise _holds_adapters(folder, inside[0])
    config = check_folder(folder)
    small = ("config.json", *SMALL_FILES, INDEX_NAME)
    names = [name for name in small if (folder / name).is_file()]
    weights = [path.name for path in weights_files_of(folder)]
    before = {name: file_state(folder / name) for name in weights}
    every = (*weights, *names)  # the large ones first, the small ones beside them
    digests = dict(zip(every, digests_of([folder / name for name in every]), strict=True))
    digest = digest_text(canonical_json(digests))
    out_dir = cache_dir / f"folder-{digest[:16]}"
    template = processor_template(folder)
    work = Work(
        kind=Checkpoint.kind,
        stage="link",
        version=1,
        inputs={"folder": digest},
        # Its file is not copied, so it is none of the folder's.
        settings={"processor_template": digest_text(template)} if template is not None else {},
    )
    with Timed(reporter, "import") as timer, _open_cached(out_dir, work, reporter) as draft:
        if draft.finished is not None:
            for name in weights:
                link_file(folder / name, out_dir / name)
            if before != {name: file_state(out_dir / name) for name in weights}:
                raise _changed(folder, weights)
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        for name in names:
            (draft.path / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / name, draft.path / name)
        if is_wrapper(read_config(folder)):
            (draft.path / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
            del digests["config.json"]
            reporter.emit(Note("import", "warning", f"{folder.name}: {TEXT_ALONE}"))
        if template is not None:
            write_template(draft.path, template)
            said = f"the chat template is its processor's ({PROCESSOR_TEMPLATE})"
            reporter.emit(Note("import", "info", f"{folder.name}: {said}"))
        tokens = tokens_without_rows(folder, config)
        for said, changed in drop_left_overs(draft.path, tokens=tokens).items():
            reporter.emit(Note("import", "info", f"{folder.name}: {said}"))
            for name in changed & digests.keys():
                del digests[name]
        for name in weights:
            link_file(folder / name, draft.path / name)
        linked = {name: digests[name] for name in weights}
        unchanged = before == {name: file_state(draft.path / name) for name in weights}
        facts = {"source": str(folder)}
        manifest = draft.commit(facts, digests=linked if unchanged else None)
        _check_unchanged(manifest, digests, folder)
        timer.finish(out_dir, facts)
        return Checkpoint(out_dir, manifest)


def _holds_adapters(folder: Path, adapter: Path) -> ModelError:
    """Of a folder that is laid out as what we make of a base and adapters, and is not that."""
    return ModelError(
        f"{folder} holds an adapter ({adapter.relative_to(folder)}): whether it is meant is not "
        "said",
        hint=f"for the adapter on this base: {adapter} with --base {folder}; for the base alone "
        f"move {adapter.parent} away",
    )


def resolve_adapter(
    reference: str,
    *,
    cache_dir: Path,
    base: str | None = None,
    client: Client | None = None,
    reporter: Reporter | None = None,
) -> tuple[Path, Checkpoint]:
    """The folder of a PEFT adapter, and the model that it was trained on.

    Args:
        reference: See :mod:`ollama_bridge.models.references`.
        cache_dir: Where checkpoints are kept.
        base: Reference of the base; None: the one that the adapter names.
        client: Asks the daemon for an ``ollama:`` reference.
        reporter: Told about imports.

    Raises:
        ModelReferenceError: a reference cannot be read, or nothing is there.
        ModelError: it is no adapter, it cannot be used, or its base is not here.
    """
    parsed = parse_reference(reference)
    if parsed.kind not in ("hf", "folder"):
        raise _no_adapter(reference)
    hub = parsed.kind == "hf"
    folder = download(parsed) if hub else _existing(parsed.path)
    found = resolve_base(
        folder, cache_dir=cache_dir, base=base, client=client, reporter=reporter, hub=hub
    )
    return folder, found


def _no_adapter(source: str | Path) -> ModelError:
    return ModelError(
        f"{source} is no PEFT adapter: it has no {ADAPTER_CONFIG}",
        hint="give the folder that model.save_pretrained(folder) of peft wrote",
    )


def resolve_base(
    adapter: Path,
    *,
    cache_dir: Path,
    base: str | None = None,
    client: Client | None = None,
    reporter: Reporter | None = None,
    hub: bool = False,
) -> Checkpoint:
    """Find the model that a PEFT adapter was trained on.

    Args:
        adapter: The adapter's folder.
        cache_dir: Where checkpoints are kept.
        base: Its reference; None: the one that the adapter names.
        client: Asks the daemon for an ``ollama:`` reference.
        reporter: Told about imports.
        hub: Whether a named base that is no folder here may be fetched from the hub.

    Raises:
        ModelError: no such adapter, it cannot be used, or its base is not here.
    """
    from ollama_bridge.models.adapters import Adapter

    if not is_adapter(adapter):
        raise _no_adapter(adapter)
    loaded = Adapter(adapter)  # refused before a base is fetched for it
    reporter = reporter or NullReporter()
    if loaded.left_out:
        said = f"{adapter.name} also adapts what sees ({len(loaded.left_out)} tensors): left out"
        reporter.emit(Note("merge", "warning", said))
    if base is not None:
        found = resolve_model(base, cache_dir=cache_dir, client=client, reporter=reporter)
        refuse_rounded(adapter, base, found)
        return found
    name, revision = base_of(adapter)
    # A relative path is relative to where the adapter was trained; beside the adapter is as likely.
    folder = next((p for p in (Path(name), adapter / name) if is_dir(p)), None)
    if folder is None and not hub:
        raise ModelError(
            f"{adapter} is an adapter of {name!r}, which is no folder here",
            hint=naming_hint(adapter, named=name),
        )
    if folder is not None:
        refuse_quantized(adapter, name, folder)
    else:
        reference = parse_reference(f"hf:{name}@{revision}" if revision else f"hf:{name}")
        if is_called_quantized(name):  # gigabytes that would come to be refused
            refuse_quantized(adapter, name, fetch(reference, ["config.json"]))
        folder = download(reference)
        refuse_quantized(adapter, name, folder)
    found = _from_folder(folder, cache_dir, reporter, hub=hub)
    refuse_rounded(adapter, name, found)
    return found


def _with_adapter(
    adapter: Path, base: Checkpoint, cache_dir: Path, reporter: Reporter
) -> Checkpoint:
    from ollama_bridge.models.merge import combine_adapter, link_parts

    # What a training leaves beside them (an optimizer's state is gigabytes) is not even opened.
    names = {ADAPTER_CONFIG, ADAPTER_WEIGHTS, *SMALL_FILES}
    files = [adapter / name for name in sorted(names) if (adapter / name).is_file()]
    digests = {path.name: digest_file(path) for path in files}
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
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        combined = combine_adapter(base.path, adapter, draft.path)
        if combined.left_out:
            said = f"{adapter.name}: {rows_not_saved(combined.left_out)}"
            reporter.emit(Note("merge", "warning", said))
        facts = {"source": str(adapter), "merged_matrices": combined.merged_matrices}
        manifest = draft.commit(facts, digests=linked_digests(base, draft.path))
        timer.finish(out_dir, facts)
        return Checkpoint(out_dir, manifest)


def _check_unchanged(manifest: Manifest, digests: dict[str, str], folder: Path) -> None:
    changed = [name for name, digest in digests.items() if manifest.files[name].sha256 != digest]
    if changed:
        raise _changed(folder, changed)


def _changed(folder: Path, names: list[str]) -> ArtifactError:
    return ArtifactError(
        f"{folder} changed while it was read: {', '.join(names)}",
        hint="wait until nothing writes to it, and run the command again",
    )
