"""What a package is proven for: the system prompt of its tag, and labels that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass

from ollama_bridge.errors import ArtifactError, ConfigError
from ollama_bridge.reference import REFERENCE_KEY, ReferenceValues
from ollama_bridge.reporting import Note, Reporter
from ollama_bridge.storage.artifacts import Checkpoint


@dataclass(frozen=True)
class Probes:
    """What the reference values of a checkpoint are computed for.

    Attributes:
        system: SYSTEM of the tag; None: the default of the chat template, if any.
        labels: Of the task that it was trained for here.
    """

    system: str | None
    labels: tuple[str, ...]


def find_probes(
    checkpoint: Checkpoint,
    values: ReferenceValues | None,
    *,
    name: str,
    asked: str | None,
    of_source: str | None,
    reporter: Reporter,
) -> Probes:
    """What was asked; else what the tag has that it is made of, or it was trained with here.

    Args:
        checkpoint: With the chat template that is packaged.
        values: Of :func:`find_values`.
        name: What the user calls the checkpoint.
        asked: SYSTEM that the user wants; None: not said, and empty: none.
        of_source: SYSTEM of the tag that it is made of, if there is such a tag.
        reporter: Hears what is taken, or lost.

    Raises:
        ConfigError: the chat template cannot write the system prompt that is wanted.
    """
    from ollama_bridge.models.system_prompt import loss_of_system

    labels = values.labels if values is not None else ()
    if asked and (loss := loss_of_system(checkpoint.path)) is not None:
        raise ConfigError(
            f"{name}: its chat template {loss} a system prompt, so the one of --system cannot "
            "reach the model",
            hint="leave --system out, or give a chat template that writes one: "
            "--chat-template FILE.jinja",
        )
    system = asked if asked is not None else of_source
    if system is not None or values is None or values.system == values.default_system:
        return Probes(system, labels)
    if (loss := loss_of_system(checkpoint.path)) is not None:
        said = f"its chat template {loss} the system prompt that it was trained with"
        reporter.emit(Note("package", "warning", f"{said}: the tag has none"))
        return Probes(None, labels)
    said = "the tag has the system prompt that the checkpoint was trained with (else: --system)"
    reporter.emit(Note("package", "info", said))
    return Probes(values.system, labels)


def find_values(checkpoint: Checkpoint, reporter: Reporter) -> ReferenceValues | None:
    """Those that a checkpoint was made with here; of an imported GGUF those that it carries.

    Args:
        checkpoint: As it was found.
        reporter: Hears of some that cannot be read.
    """
    from ollama_bridge.models.gguf.reader import read_gguf
    from ollama_bridge.models.weights.gguf import GGUF_NAME

    if checkpoint.reference_path.is_file():
        return ReferenceValues.read(checkpoint.reference_path)
    if checkpoint.manifest.work.stage != "import":
        return None  # a GGUF in it is the base of something else
    gguf = checkpoint.path / GGUF_NAME
    text = read_gguf(gguf).metadata.get(REFERENCE_KEY)
    if not isinstance(text, str):
        return None
    try:
        return ReferenceValues.parse(text, where=f"{gguf}, {REFERENCE_KEY}")
    except ArtifactError as error:  # such as those of a newer version
        said = "what it was trained with here (labels, a system prompt) is not read from it"
        reporter.emit(Note("package", "warning", f"{said}: {error.message}"))
        return None
