"""Checks that a tag which is already there serves what was trained.

What has to be served is read from the tag itself (our GGUFs carry it), or computed from the
checkpoint that the tag is said to be. Nothing is created or changed in the daemon.
"""

from __future__ import annotations

import re
from pathlib import Path

from ollama_bridge.artifacts import Checkpoint
from ollama_bridge.client import Client, ModelDetails
from ollama_bridge.errors import ParityError
from ollama_bridge.modelfile import Modelfile, check_tag
from ollama_bridge.modelfile.parameters import PARAMETERS, check_parameters
from ollama_bridge.reference import REFERENCE_KEY, ReferenceValues
from ollama_bridge.reporting import NullReporter, Reporter, Timed
from ollama_bridge.verify.certificate import Certificate, Check
from ollama_bridge.verify.parity import check_parity
from ollama_bridge.verify.settings import read_parameters

_STAGE = "verify"
_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")
_FROM = re.compile(r"^FROM (/.+)$", re.MULTILINE)


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
        against: Checkpoint with reference values; None: the values that the tag carries.
        reporter: Hears of progress.

    Returns:
        The certificate; ask it whether it passed.

    Raises:
        ConfigError: no legal tag.
        ModelNotFoundError: the daemon has no such tag.
        ParityError: the tag carries no values, and no checkpoint was given.
        ArtifactError: the values cannot be read.
        DaemonError: the daemon could not answer.
    """
    tag = check_tag(tag)
    with Timed(reporter or NullReporter(), _STAGE):
        details = client.show(tag, verbose=True)
        if against is not None:
            reference = ReferenceValues.read(against.reference_path)
        else:
            reference = _carried_values(tag, details)
        certificate = check_parity(
            client,
            tag,
            reference,
            type=_type_of(details),
            modelfile=_modelfile_of(details),
            metadata=details.model_info,
            blob_digest=_blob_of(details),
            reporter=reporter,
        )
        failure = certificate.first_failure
        if against is not None and failure is not None and failure.layer == "tensor":
            certificate = _name_tensors(certificate, details, against)
        digests = [model.digest for model in client.list() if model.name == tag]
        return certificate.model_copy(update={"tag_digest": digests[0] if digests else ""})


def _name_tensors(
    certificate: Certificate, details: ModelDetails, against: Checkpoint
) -> Certificate:
    """Say which tensors are wrong, where the daemon's file is on this machine."""
    path = _FROM.search(details.modelfile)
    if path is None or not Path(path.group(1)).is_file():
        return certificate
    from ollama_bridge.models.tensor_check import wrong_tensors

    problems = wrong_tensors(Path(path.group(1)), against.path)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    check = Check(
        name="tensors",
        layer="tensor",
        passed=not problems,
        numbers={"wrong_tensors": len(problems)},
        difference=f"{problems[0]}{more}" if problems else None,
    )
    # First, so that it is what the error says.
    return certificate.model_copy(update={"checks": (check, *certificate.checks)})


def _carried_values(tag: str, details: ModelDetails) -> ReferenceValues:
    text = details.model_info.get(REFERENCE_KEY)
    if not isinstance(text, str):
        raise ParityError(
            f"{tag} does not carry the values that would prove what it serves",
            layer="reference",
            hint=f"name the checkpoint that it was made of: ollama-bridge verify {tag} "
            "--against FOLDER",
        )
    return ReferenceValues.parse(text, where=f"{tag}, {REFERENCE_KEY}")


def _type_of(details: ModelDetails) -> str:
    level = details.raw.get("details", {}).get("quantization_level", "")
    return str(level).lower()


def _blob_of(details: ModelDetails) -> str:
    found = _BLOB.search(details.modelfile)
    return f"sha256:{found.group(1)}" if found else ""


def _modelfile_of(details: ModelDetails) -> Modelfile:
    """The Modelfile that the daemon shows, as far as this package carries it."""
    values: dict[str, object] = {}
    for name, found in read_parameters(details.parameters).items():
        if name in PARAMETERS:
            values[name] = tuple(found) if name == "stop" else found[0]
    return Modelfile(
        from_=_blob_of(details) or "unknown",
        template=details.template or None,
        system=details.system or None,
        parameters=check_parameters(values),
    )
