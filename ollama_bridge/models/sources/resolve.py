"""From a model reference to a checkpoint on disk, imported at most once.

What it names is found (a GGUF, given or in the daemon's store; a folder; a base and an adapter) and
becomes a Hugging Face folder with a manifest, see :mod:`ollama_bridge.models.sources.cached`. A tag
is therefore pinned: if it moves, its digest is another, and so is the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from ollama_bridge.digests import digest_file
from ollama_bridge.errors import ModelError, ModelReferenceError
from ollama_bridge.models.paths import is_dir, is_file
from ollama_bridge.models.safety import check_settings, has_whole_weights, is_packed
from ollama_bridge.models.sources.adapter_base import refuse_quantized, refuse_rounded
from ollama_bridge.models.sources.cached import import_file, is_imported, link_folder, merge_adapter
from ollama_bridge.models.sources.given_template import with_chat_template
from ollama_bridge.models.sources.hub import JUDGED, download, fetch, has_file
from ollama_bridge.models.sources.links import file_state
from ollama_bridge.models.sources.references import ModelReference, parse_reference
from ollama_bridge.models.sources.tag_file import file_of_tag
from ollama_bridge.models.weights.adapter_folder import (
    ADAPTER_CONFIG,
    base_of,
    is_adapter,
    is_called_quantized,
    naming_hint,
)
from ollama_bridge.models.weights.files import WEIGHTS_NAME
from ollama_bridge.models.weights.lora import Adapter
from ollama_bridge.models.weights.stored import adapters_of
from ollama_bridge.reporting import Note, NullReporter, Reporter
from ollama_bridge.storage.artifacts import MANIFEST_NAME, Checkpoint, GGUFFile, Manifest

if TYPE_CHECKING:
    from ollama_bridge.client import Client

_MERGED_BESIDE = (
    "it holds a whole model and an adapter, which is assumed to be merged into the model "
    "already (if it is not: --base names the model that the adapter is for)"
)


def resolve_model(
    reference: str | Path,
    *,
    cache_dir: str | Path,
    base: str | Path | None = None,
    chat_template: str | Path | None = None,
    client: Client | None = None,
    reporter: Reporter | None = None,
) -> Checkpoint:
    """Find a model and make a checkpoint of it.

    Args:
        reference: See :mod:`ollama_bridge.models.sources.references`.
        cache_dir: Where imported checkpoints are kept.
        base: Of a PEFT adapter: reference of the model that it was trained on; None: the one that
            its config names.
        chat_template: A file with the chat template, in Jinja, in place of the model's own.
        client: Asks the daemon for an ``ollama:`` reference.

    Raises:
        ModelReferenceError: the reference cannot be read, or nothing is there.
        ModelError: what is there, or the chat template, cannot be used.
        DaemonError: the daemon does not know the tag, or does not answer.
    """
    cache_dir = Path(cache_dir)
    chat_template = Path(chat_template) if chat_template is not None else None
    reporter = reporter or NullReporter()
    base = str(base) if base is not None else None
    found = _resolve(str(reference), cache_dir, reporter, base=base, client=client)
    if chat_template is None:
        return found
    return with_chat_template(found, chat_template, cache_dir=cache_dir, reporter=reporter)


def check_reference(reference: str) -> None:
    """Refuse what names nothing, before anything is fetched or asked.

    Raises:
        ModelReferenceError: the reference cannot be read, or no such file or folder is there.
    """
    parsed = parse_reference(reference)
    if parsed.kind == "folder":
        _existing(parsed.path)
    elif parsed.kind == "gguf":
        _existing_file(parsed.path)


def _resolve(
    reference: str,
    cache_dir: Path,
    reporter: Reporter,
    *,
    base: str | None,
    client: Client | None,
) -> Checkpoint:
    """The model as it is."""
    parsed = parse_reference(reference)
    if parsed.kind in ("hf", "folder"):
        hub = parsed.kind == "hf"
        folder = _from_hub(parsed) if hub else _existing(parsed.path)
        return _from_folder(folder, cache_dir, reporter, hub=hub, base=base, client=client)
    if base is not None:
        raise _needs_no_base(reference)
    if parsed.kind == "ollama":
        return _from_daemon(parsed, cache_dir, client, reporter)
    path = _existing_file(parsed.path)
    before = file_state(path)
    return import_file(
        path,
        digest_file(path),
        before,
        source=str(path),
        cache_dir=cache_dir,
        reporter=reporter,
    )


def _from_hub(reference: ModelReference) -> Path:
    """A repository whose small files do not say already that it cannot be used."""
    small = fetch(reference, JUDGED)
    if not is_adapter(small):
        check_settings(small, packed=_is_packed(reference, small))
    return download(reference)


def _is_packed(reference: ModelReference, small: Path) -> bool:
    """Whether a repository's index says that its weights are quantized, and is what is read.

    As in transformers, a whole file goes before the index, which may be of the weights before.
    """
    return is_packed(small) and not has_file(reference, WEIGHTS_NAME)


def _existing_file(path: Path) -> Path:
    if not is_file(path):
        raise ModelReferenceError(f"{path}: no such file", hint="check the path")
    return path


def _existing(folder: Path) -> Path:
    if is_dir(folder):
        return folder
    kind, hint = "no such folder", "give the folder of a checkpoint, or a .gguf file"
    if is_file(folder):
        kind = "is a file, not a folder"
        above = folder.absolute().parent
        if is_file(above / "config.json") or is_file(above / ADAPTER_CONFIG):
            hint = f"give the folder that it is in: {quote(str(above))}"
        else:
            hint += "; a model of the daemon is written ollama:NAME"
    raise ModelReferenceError(f"{folder}: {kind}", hint=hint)


def _needs_no_base(reference: str | Path) -> ModelReferenceError:
    return ModelReferenceError(
        f"{reference} is not a PEFT adapter, so it has no base to be merged into",
        hint="leave --base out",
    )


def _from_daemon(
    reference: ModelReference, cache_dir: Path, client: Client | None, reporter: Reporter
) -> Checkpoint:
    path, digest = file_of_tag(reference, client)
    before = file_state(path)
    # Ollama never checks a blob that was linked into its store, so its name proves nothing.
    if not is_imported(path, digest, cache_dir=cache_dir) and digest_file(path) != digest:
        raise ModelError(
            f"{path} is not what its name says: the blob of {reference} was changed",
            hint=f"get the model again: ollama rm {reference.value}, then pull or create it",
        )
    return import_file(
        path,
        digest,
        before,
        source=str(reference),
        cache_dir=cache_dir,
        reporter=reporter,
    )


def _from_folder(
    folder: Path,
    cache_dir: Path,
    reporter: Reporter,
    *,
    hub: bool,
    base: str | None = None,
    client: Client | None = None,
) -> Checkpoint:
    made_here = (folder / MANIFEST_NAME).is_file()
    merged = is_adapter(folder) and base is None and has_whole_weights(folder)
    if merged and not made_here:
        reporter.emit(Note("import", "info", f"{folder.name}: {_MERGED_BESIDE}"))
    elif is_adapter(folder) and not made_here:
        found = resolve_base(
            folder, cache_dir=cache_dir, base=base, client=client, reporter=reporter, hub=hub
        )
        return merge_adapter(folder, found, cache_dir=cache_dir, reporter=reporter)
    if base is not None:
        raise _needs_no_base(folder)
    if made_here:
        return _made_here(folder)
    if inside := adapters_of(folder):
        raise _holds_adapters(folder, inside[0])
    return link_folder(folder, cache_dir=cache_dir, reporter=reporter)


def _made_here(folder: Path) -> Checkpoint:
    kind = Manifest.read(folder).work.kind
    if kind == GGUFFile.kind:
        raise ModelReferenceError(
            f"{folder} is what `convert` made of a checkpoint",
            hint=f"give its file: {quote(str(GGUFFile.open(folder).gguf_path))}",
        )
    return Checkpoint.open(folder)


def _holds_adapters(folder: Path, adapter: Path) -> ModelError:
    """Of a folder that is laid out as what we make of a base and adapters, and is not that."""
    return ModelError(
        f"{folder} holds both a model and an adapter ({adapter.relative_to(folder)}): say which "
        "one you want",
        hint=f"the adapter on this base: {quote(str(adapter))} with --base {quote(str(folder))}; "
        f"the base alone: move {adapter.parent} away",
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

    Raises:
        ModelReferenceError: a reference cannot be read, or nothing is there.
        ModelError: it is no adapter, it cannot be used, or its base is not here.
    """
    parsed = parse_reference(reference)
    if parsed.kind not in ("hf", "folder"):
        raise _no_adapter(reference)
    hub = parsed.kind == "hf"
    if hub and not is_adapter(fetch(parsed, JUDGED)):
        raise _no_adapter(reference)
    folder = _from_hub(parsed) if hub else _existing(parsed.path)
    found = resolve_base(
        folder, cache_dir=cache_dir, base=base, client=client, reporter=reporter, hub=hub
    )
    return folder, found


def _no_adapter(source: str | Path) -> ModelError:
    return ModelError(
        f"{source} is not a PEFT adapter: it has no {ADAPTER_CONFIG}",
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
        base: Its reference; None: the one that the adapter names.
        client: Asks the daemon for an ``ollama:`` reference.
        hub: Whether a named base that is no folder here may be fetched from the hub.

    Raises:
        ModelError: no such adapter, it cannot be used, or its base is not here.
    """
    if not is_adapter(adapter):
        raise _no_adapter(adapter)
    loaded = Adapter(adapter)  # refused before a base is fetched for it
    reporter = reporter or NullReporter()
    if loaded.left_out:
        said = (
            f"{adapter.name} also adapts the vision part ({len(loaded.left_out)} tensors), which "
            "is left out"
        )
        reporter.emit(Note("merge", "warning", said))
    if base is not None:
        given = parse_reference(base)
        if given.kind == "folder":
            refuse_quantized(adapter, base, given.path)
        found = resolve_model(base, cache_dir=cache_dir, client=client, reporter=reporter)
        refuse_rounded(adapter, base, found)
        return found
    name, revision = base_of(adapter)
    folder = _named_folder(adapter)
    _refuse_circle(adapter, folder)
    if folder is None and not hub:
        raise ModelError(
            f"{adapter} is an adapter of {name!r}, which is not a folder here",
            hint=naming_hint(adapter, named=name),
        )
    if folder is not None:
        refuse_quantized(adapter, name, folder)
    else:
        reference = parse_reference(f"hf:{name}@{revision}" if revision else f"hf:{name}")
        small = fetch(reference, JUDGED)
        # Else gigabytes would come to be refused.
        if is_called_quantized(name) or _is_packed(reference, small):
            refuse_quantized(adapter, name, small)
        folder = _from_hub(reference)
        refuse_quantized(adapter, name, folder)
    found = _from_folder(folder, cache_dir, reporter, hub=hub)
    refuse_rounded(adapter, name, found)
    return found


def _named_folder(adapter: Path) -> Path | None:
    """The folder that an adapter names as its base; None: it is none here.

    A relative path is relative to where the adapter was trained; beside the adapter is as likely.
    """
    name, _ = base_of(adapter)
    return next((path for path in (Path(name), adapter / name) if is_dir(path)), None)


def _refuse_circle(adapter: Path, folder: Path | None) -> None:
    """An adapter that was trained on from itself, and saved over itself, is its own base's name."""
    seen = {adapter.resolve()}
    while folder is not None and is_adapter(folder) and not has_whole_weights(folder):
        if folder.resolve() in seen:
            raise ModelError(
                f"{folder} names itself as its base, or an adapter that is based on it",
                hint=naming_hint(folder),
            )
        seen.add(folder.resolve())
        folder = _named_folder(folder)
