"""Checks that a tag which is already there serves what was trained.

What has to be served is read from the tag itself (our GGUFs carry it), or computed from the
checkpoint that the tag is said to be. Nothing is created or changed in the daemon.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ollama_bridge.client import Client, ModelDetails
from ollama_bridge.client.model_names import find_model
from ollama_bridge.daemon.store import Blob, find_manifest, locate_blob
from ollama_bridge.errors import (
    ArtifactError,
    ContextOverflowError,
    ConversionError,
    DaemonError,
    OllamaBridgeError,
    ParityError,
    RegistryContentError,
    RequestRejectedError,
    RunnerCrashedError,
)
from ollama_bridge.modelfile import Modelfile, check_tag
from ollama_bridge.modelfile.parameters import check_parameters
from ollama_bridge.option_kinds import OPTION_KINDS
from ollama_bridge.quantization.file_types import PROVEN_NAMES, name_of
from ollama_bridge.reference import REFERENCE_KEY, ReferenceValues
from ollama_bridge.registry.attachments import read_attachments
from ollama_bridge.registry.manifest import parse_manifest
from ollama_bridge.reporting import NullReporter, Reporter, Timed
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.tag_parameters import choose_parameters
from ollama_bridge.verify.bounds import bounds_of, recorded_noise
from ollama_bridge.verify.carried import carries_others
from ollama_bridge.verify.certificate import (
    ADAPTER,
    CARRIES_OTHERS,
    LOG_PROBABILITIES,
    METADATA,
    NOT_COMPARED,
    PARAMETERS,
    SET_OTHERWISE,
    TENSORS,
    TOKEN_COUNT,
    Certificate,
    Check,
)
from ollama_bridge.verify.context import longest_probe
from ollama_bridge.verify.numbers import check_numbers
from ollama_bridge.verify.parity import check_parity
from ollama_bridge.verify.settings import describe_sampling, read_parameters
from ollama_bridge.verify.types import check_types
from ollama_bridge.verify.whole_vocabulary import check_whole_vocabulary

_STAGE = "verify"
_LOADING = re.compile(r"\bload(ing)? model\b")  # as runners say it


def verify_tag(
    tag: str,
    *,
    client: Client,
    against: Checkpoint | None = None,
    reporter: Reporter | None = None,
) -> Certificate:
    """Compare what a tag serves with the reference values of its checkpoint.

    Args:
        tag: A tag of the daemon; it may have been made by anybody.
        client: Speaks to the daemon.
        against: Checkpoint with reference values; with it, vocabulary, metadata and tensors of the
            daemon's file are compared too; where the file is not at hand, the verdict says so.
            None: the values that the tag carries.
        reporter: Hears of progress.

    Returns:
        The certificate; ask it whether it passed.

    Raises:
        ConfigError: no legal tag.
        ModelNotFoundError: the daemon has no such tag.
        ParityError: the tag carries no values, and no checkpoint was given; or it has no GGUF, or
            one of a type for which no bounds are known.
        ArtifactError: the values cannot be read.
        DaemonError: the daemon could not answer, or the tag was replaced meanwhile.
    """
    tag = check_tag(tag)
    with Timed(reporter or NullReporter(), _STAGE):
        served = _digest_of(client, tag)
        details = client.show(tag, verbose=True)
        _check_format(tag, details)
        if against is not None:
            reference = ReferenceValues.read(against.reference_path)
        else:
            reference = _carried_values(tag, details)
        blob = locate_blob(client, tag)
        modelfile = shown_modelfile(details, blob.digest)
        try:
            certificate = check_parity(
                client,
                tag,
                reference,
                type=type_of(tag, details),
                modelfile=modelfile,
                metadata=details.model_info,
                blob_digest=blob.digest,
                reporter=reporter,
            )
        except ContextOverflowError as exc:
            raise _too_short(exc, tag, reference, modelfile) from exc
        except (RequestRejectedError, RunnerCrashedError) as exc:
            raise _explained(exc, tag, blob, against) from exc
        if blob.is_adapted:
            certificate = _with_adapter(certificate)
        certificate = _with_sampling(certificate, modelfile, reference)
        if recorded_noise(details.model_info) is None:  # else no preset names its types
            types = check_types(certificate.type, details.raw)
            if types is not None:
                certificate = certificate.with_checks(types, before=LOG_PROBABILITIES)
        if against is not None:
            certificate = _with_file(certificate, blob, against, reference, details.model_info)
            certificate = _with_carried(certificate, reference, details.model_info)
        else:
            certificate = _with_numbers(certificate, reference, details.model_info)
        attached = _check_attachments(client, tag)
        if attached is not None:
            certificate = certificate.with_checks(attached)
        if _digest_of(client, tag) != served:
            raise DaemonError(
                f"{tag} was replaced while it was verified: what was found is of no one tag",
                hint="run the same command again",
                model=tag,
            )
        return certificate.model_copy(update={"tag_digest": served})


def _digest_of(client: Client, tag: str) -> str:
    listed = find_model(client.list(), tag)
    return listed.digest if listed else ""


def _too_short(
    exc: ContextOverflowError, tag: str, reference: ReferenceValues, modelfile: Modelfile
) -> OllamaBridgeError:
    """Of a probe that does not fit, say why: nobody can make it shorter."""
    num_ctx, needed = modelfile.parameters.get("num_ctx"), longest_probe(reference)
    if not isinstance(num_ctx, int) or num_ctx > needed:
        return exc
    return ParityError(
        f"{tag} sets num_ctx {num_ctx}, and what proves its checkpoint takes {needed + 1} tokens",
        layer="sampling",
        hint=f"make it again with more room: PARAMETER num_ctx {reference.context_length}",
    )


def _explained(
    exc: DaemonError, tag: str, blob: Blob, against: Checkpoint | None
) -> OllamaBridgeError:
    """Of a file that the daemon cannot load, say what is wrong with it, where that can be seen."""
    if not _LOADING.search(exc.message):
        return exc
    if against is None:
        return DaemonError(
            f"Ollama cannot load {tag}: {exc.message}",
            hint="to see what is wrong with its file, name the checkpoint that it was made from: "
            f"ollama-bridge verify {tag} --against FOLDER",
            model=tag,
        )
    if blob.path is None or blob.is_adapted:
        return exc
    from ollama_bridge.models.gguf.reader import read_gguf
    from ollama_bridge.verify.tensor_check import compare_tensors

    vocabulary = _whole_vocabulary(against, read_gguf(blob.path).metadata)
    report = compare_tensors(blob.path, against.path)
    found = [("tokenizer", vocabulary.difference)] if vocabulary else []
    found += [("tensor", problem) for problem in (*report.metadata, *report.wrong)]
    for layer, problem in found:
        if problem is not None:
            return ParityError(
                f"Ollama cannot load {tag}, whose file is not its checkpoint's: {problem}",
                layer=layer,
                hint="convert the checkpoint again: ollama-bridge package CHECKPOINT TAG",
            )
    return exc


def _with_adapter(certificate: Certificate) -> Certificate:
    """Name the ADAPTER where answers differ: one may have been added to a tag of ours."""
    failure = certificate.first_failure
    if failure is None or (failure.name, failure.layer) != (LOG_PROBABILITIES, "tensor"):
        return certificate
    named = Check.of(
        ADAPTER,
        "tensor",
        "the tag has an ADAPTER, with which its file answers otherwise than its "
        f"checkpoint: {failure.difference}",
    )
    return certificate.with_checks(named, before=LOG_PROBABILITIES)


def _with_sampling(
    certificate: Certificate, modelfile: Modelfile, reference: ReferenceValues
) -> Certificate:
    """Say what the tag sets otherwise: its own Modelfile cannot tell, whoever changed it."""
    said = describe_sampling(modelfile.parameters, choose_parameters(reference, {}), reference)
    return certificate.with_number(PARAMETERS, SET_OTHERWISE, said) if said else certificate


def _with_file(
    certificate: Certificate,
    blob: Blob,
    checkpoint: Checkpoint,
    reference: ReferenceValues,
    metadata: Mapping[str, Any],
) -> Certificate:
    """Compare the file, or what the daemon shows of it, and say that nobody did more."""
    if blob.is_adapted:
        why = "it has an ADAPTER, so that no file holds what it computes with"
    elif blob.path is None:
        why = "its file is in no model folder that can be read here (run this as a user who can; "
        why += "OLLAMA_MODELS names a folder elsewhere)"
    else:
        whole = _whole_vocabulary(checkpoint, metadata)
        if whole is not None:
            certificate = certificate.with_checks(whole, before=TOKEN_COUNT)
        return _with_tensors(certificate, blob.path, checkpoint.path)
    if REFERENCE_KEY in metadata:  # of our converter, whose keys are known; else defaults count
        certificate = _with_numbers(certificate, reference, metadata)
    return certificate.with_number(LOG_PROBABILITIES, NOT_COMPARED, why)


def _with_numbers(
    certificate: Certificate, reference: ReferenceValues, metadata: Mapping[str, Any]
) -> Certificate:
    """Compare the numbers of a file of ours: a wrong window shows in no answer of a probe."""
    found = check_numbers(reference, metadata)
    return certificate.with_checks(*found, before=LOG_PROBABILITIES)


def _with_carried(
    certificate: Certificate, reference: ReferenceValues, metadata: Mapping[str, Any]
) -> Certificate:
    """Say if the tag carries other values than its checkpoint's: by them it would be refused."""
    bounds = bounds_of(certificate.type, reference, recorded=recorded_noise(metadata))
    if not carries_others(metadata.get(REFERENCE_KEY), reference, bounds):
        return certificate
    said = "the values that it carries are another model's, so that it is proven only --against "
    return certificate.with_number(LOG_PROBABILITIES, CARRIES_OTHERS, f"{said}its checkpoint")


def _whole_vocabulary(checkpoint: Checkpoint, metadata: Mapping[str, Any]) -> Check | None:
    """Compare all tokens; None: no GGUF can say how the checkpoint splits texts."""
    from ollama_bridge.conversion.source import Source

    try:
        entries = Source(checkpoint).tokenizer_entries(chat_template=False)
    except ConversionError:
        return None
    return check_whole_vocabulary({entry.key: entry.value for entry in entries}, metadata)


def _with_tensors(certificate: Certificate, gguf: Path, checkpoint: Path) -> Certificate:
    """Compare the file with the checkpoint: answers may hide a fault that is small, or far in."""
    from ollama_bridge.verify.tensor_check import compare_tensors

    report = compare_tensors(gguf, checkpoint)
    noted = {"note": "; ".join(report.notes)} if report.notes else {}
    found = (
        Check.of_file(METADATA, report.metadata, {"wrong_keys": len(report.metadata)}),
        Check.of_file(TENSORS, report.wrong, {"wrong_tensors": len(report.wrong), **noted}),
    )
    return certificate.with_checks(*found, before=LOG_PROBABILITIES)


def _check_attachments(client: Client, tag: str) -> Check | None:
    """Hold card, certificate and lineage against the tag; None where it has none, or no store."""
    stored = find_manifest(client, tag)
    try:
        manifest = parse_manifest(stored.content, where=tag) if stored else None
    except RegistryContentError:
        return None  # the daemon's own business: it serves what it serves
    if stored is None or manifest is None or not manifest.own_layers():
        return None
    try:
        found = read_attachments(manifest, stored.read)
        strangers = [one.kind for one in found if not one.belongs_to(manifest)]
        difference = f"{' and '.join(strangers)} of another model" if strangers else None
    except ArtifactError as error:
        difference = error.message
    return Check.of(
        "card, certificate, lineage",
        "provenance",
        difference,
        {"layers": len(manifest.own_layers())},
    )


def _check_format(tag: str, details: ModelDetails) -> None:
    """A cloud model has no weights here, and MLX's are in no GGUF."""
    form = (details.raw.get("details") or {}).get("format") or "gguf"
    if details.raw.get("remote_host"):
        found = "is a cloud model, whose weights are not here"
    elif form != "gguf":
        found = f"has its weights as {form}, not in a GGUF"
    else:
        return
    raise ParityError(
        f"{tag} {found}, so nothing about it can be proven",
        layer="reference",
        hint="a tag made from its checkpoint can be proven: ollama-bridge package CHECKPOINT TAG",
    )


def _carried_values(tag: str, details: ModelDetails) -> ReferenceValues:
    text = details.model_info.get(REFERENCE_KEY)
    if not isinstance(text, str):
        raise ParityError(
            f"{tag} does not carry the values that would prove what it serves",
            layer="reference",
            hint=f"name the checkpoint that it was made from: ollama-bridge verify {tag} "
            "--against FOLDER",
        )
    try:
        return ReferenceValues.parse(text, where=f"{tag}, {REFERENCE_KEY}")
    except ArtifactError as exc:
        raise ArtifactError(
            f"the values that would prove {tag} are damaged, or of a newer version of "
            f"ollama-bridge: {exc.message}",
            hint="update ollama-bridge, or name the checkpoint that it was made from: "
            f"ollama-bridge verify {tag} --against FOLDER",
        ) from exc


def type_of(tag: str, details: ModelDetails) -> str:
    """The type of a tag's weights, by the name that the bounds have for it.

    Args:
        tag: For messages.
        details: What the daemon shows of it.

    Raises:
        ParityError: it is one for which there are no bounds.
    """
    found = name_of(details.model_info.get("general.file_type"))
    if found is None:
        level = (details.raw.get("details") or {}).get("quantization_level", "?")
        raise ParityError(
            f"{tag} is of type {level}, for which no bounds are known",
            layer="tensor",
            hint=f"tags of these types can be proven: {PROVEN_NAMES}",
        )
    return found


def shown_modelfile(details: ModelDetails, from_: str) -> Modelfile:
    """TEMPLATE, SYSTEM and PARAMETERs that a daemon shows, as far as this package carries them.

    Args:
        details: What the daemon shows of a tag.
        from_: FROM of the Modelfile.

    Raises:
        ModelfileError: a parameter is of a type that the daemon would fail with.
    """
    values: dict[str, object] = {}
    for name, found in read_parameters(details.parameters).items():
        if name in OPTION_KINDS:
            values[name] = tuple(found) if name == "stop" else found[0]
    return Modelfile(
        from_=from_,
        template=details.template or None,
        system=details.system or None,
        parameters=check_parameters(values),
    )
