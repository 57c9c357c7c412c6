"""The model card: what a model is, how good, made of what, and how to run it. Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

from ollama_bridge.client import ModelDetails
from ollama_bridge.digests import digest_text
from ollama_bridge.publishing.provenance import Made, Provenance, portable
from ollama_bridge.verify.certificate import Certificate

# Settings that say how a model was made, in the order in which they are read.
_TOLD_SETTINGS = (
    "layers",
    "epochs",
    "lr",
    "batch_tokens",
    "max_length",
    "max_examples",
    "lora",
    "teacher",
    "losses",
    "kd_weight",
    "temperature",
    "hidden_weight",
    "top_k",
    "type",
)
_LICENSE_HEAD_CHARS = 300
_SEALED = re.compile(r"(.*) <!-- sha256:([0-9a-f]{64}) -->\n", re.DOTALL)


def model_card(
    name: str,
    details: ModelDetails,
    provenance: Provenance,
    *,
    license_text: str = "",
    published: bool = True,
) -> str:
    """Write the card of a tag, in Markdown; it says in so many words what is not known.

    The name is as the reader will call it; what is published has to be pulled first.
    """
    sections = [
        [f"# {name}", "", _summary(details, provenance)],
        ["## Run it", "", "```", *_commands(name, provenance, published=published), "```"],
        ["## Proof", "", *_proof(provenance.certificate)],
        ["## Scores", "", *_scores(provenance)],
        ["## Data", "", *_data(provenance.data_card()), *_answers(provenance.answers_card())],
        ["## Lineage", "", *_lineage(provenance, details)],
        ["## Licence", "", *_licence(details, license_text)],
    ]
    sections.append([f"Written by ollama-bridge {metadata.version('ollama-bridge')}."])
    text = "\n\n".join("\n".join(section) for section in sections)
    return f"{text} <!-- sha256:{digest_text(text)} -->\n"  # a comment: not shown as Markdown


def is_as_written(text: str) -> bool:
    """Whether a text is a card of ours that nobody has changed since."""
    sealed = _SEALED.fullmatch(text)
    return sealed is not None and digest_text(sealed[1]) == sealed[2]


def _summary(details: ModelDetails, provenance: Provenance) -> str:
    info, shown = details.model_info, details.raw.get("details") or {}
    architecture = str(info.get("general.architecture", "unknown architecture"))
    parts = [
        str(shown.get("parameter_size") or "").strip(),
        architecture,
        "as GGUF",
        f"({shown.get('quantization_level') or 'unknown type'})",
    ]
    text = f"A model for Ollama: {' '.join(part for part in parts if part)}"
    context = info.get(f"{architecture}.context_length")
    if context:
        text += f", context length {context}"
    if provenance.asked_teachers:
        text += f", distilled from {', '.join(provenance.asked_teachers)}"
    elif any(made.manifest.work.stage == "distill" for made in provenance.lineage):
        text += ", distilled from a larger one"
    return f"{text}."


def _commands(name: str, provenance: Provenance, *, published: bool) -> Iterator[str]:
    if published:
        yield f"ollama-bridge pull {name}"
    yield f"ollama run {name}"
    if provenance.certificate is not None:
        yield f"ollama-bridge verify {name}"


def _proof(certificate: Certificate | None) -> list[str]:
    if certificate is None:
        return ["Not known here: no run of ollama-bridge made this tag. `verify` it."]
    lines = [f"{certificate.verdict[0].upper()}{certificate.verdict[1:]}."]
    rows = [
        [
            check.name,
            "ok" if check.passed else f"failed ({check.layer})",
            ", ".join(f"{key} {_number(value)}" for key, value in check.numbers.items()),
        ]
        for check in certificate.checks
    ]
    lines += ["", *_table(["check", "result", "numbers"], rows)]
    if certificate.limits:
        lines += ["", "What the checkpoint's chat template does and the tag cannot:", ""]
        lines += [f"- {limit}" for limit in certificate.limits]
    return lines


def _scores(provenance: Provenance) -> list[str]:
    found: list[str] = []
    for made in provenance.reports:
        text = (made.path / "report.md").read_text(encoding="utf-8").strip()
        # Headings of a report become sections of ours.
        found += ["", *re.sub(r"^## ", "### ", text, flags=re.MULTILINE).splitlines()]
    return found[1:] or ["Not measured by the run that made this tag."]


def _data(card: Mapping[str, Any] | None) -> list[str]:
    if card is None:
        return ["Not known here."]
    rows = []
    for split, counts in card.get("splits", {}).items():
        labels = ", ".join(f"{label} {n}" for label, n in counts.get("labels", {}).items())
        rows.append([split, str(counts["examples"]), str(counts["documents"]), labels])
    lines = [f"Source: {card.get('source')}, seed {card.get('seed')}.", ""]
    lines += _table(["split", "examples", "documents", "labels"], rows)
    left_out = {reason: sum(counts.values()) for reason, counts in card.get("left_out", {}).items()}
    read = sum(card.get("read", {}).values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none"
    lines += ["", f"{read} read; left out: {reasons}."]
    inputs = card.get("inputs", {})
    if inputs:
        lines += ["", "Files, by sha256:", ""]
        lines += [f"- {name}: `{file['sha256']}`" for name, file in sorted(inputs.items())]
    return lines


def _answers(card: Mapping[str, Any] | None) -> list[str]:
    if card is None:
        return []
    rows = [
        [split, ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())]
        for split, outcomes in card["outcomes"].items()
    ]
    return [
        "",
        f"Of these, answered by {portable(card.get('model'), key='model')}:",
        "",
        *_table(["split", "what became of them"], rows),
    ]


def _lineage(provenance: Provenance, details: ModelDetails) -> list[str]:
    base = details.model_info.get("general.base_model.0.name")
    lines = [f"Base model: {base}.", ""] if base else []
    sources = [made.manifest.facts.get("source") for made in provenance.lineage]
    for source in dict.fromkeys(portable(source, key="source") for source in sources if source):
        lines += [f"Starts from {source}.", ""]
    rows = [
        [
            made.manifest.work.stage,
            made.kind,
            f"`{made.manifest.digest[:12]}`",
            _inputs_text(made, provenance),
            _settings_text(made),
        ]
        for made in provenance.lineage
    ]
    if not rows:
        return [*lines, "Not known here: no run of ollama-bridge made this tag."]
    lines += _table(["stage", "makes", "digest", "of", "settings"], rows)
    return lines


def _inputs_text(made: Made, provenance: Provenance) -> str:
    known = {one.manifest.digest: one.manifest.work.stage for one in provenance.lineage}
    return ", ".join(
        f"{role} `{digest.removeprefix('sha256:')[:12]}`"
        + (f" ({known[digest]})" if digest in known else "")
        for role, digest in made.manifest.work.inputs.items()
    )


def _settings_text(made: Made) -> str:
    settings = dict(made.manifest.work.settings)
    if "epochs" in made.manifest.facts:  # more than were asked for, of a small file
        settings["epochs"] = made.manifest.facts["epochs"]
    told = [f"{name} {_setting(settings[name])}" for name in _TOLD_SETTINGS if settings.get(name)]
    if made.manifest.facts.get("teacher"):
        teacher = portable(made.manifest.facts["teacher"], key="teacher")
        told.insert(0, f"asked of {teacher}")
    if made.manifest.work.seed:
        told.append(f"seed {made.manifest.work.seed}")
    return ", ".join(told)


def _setting(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key} {inner}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return " + ".join(f"({_setting(item)})" for item in value)
    return str(value)


def _licence(details: ModelDetails, added: str) -> list[str]:
    stated = details.model_info.get("general.license")
    lines = [f"Stated in the weights: {stated}."] if stated else []
    for text in (str(details.raw.get("license") or "").strip(), added.strip()):
        if text:
            head = text[:_LICENSE_HEAD_CHARS]
            more = " [...]" if len(text) > len(head) else ""
            lines += ["", *(f"> {line}".rstrip() for line in f"{head}{more}".splitlines())]
    return lines or ["None was stated. Ask who published it before you use it."]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _number(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
