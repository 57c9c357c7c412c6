"""What a tag says beside its weights, where another tag is made of it, or of an adapter on it.

SYSTEM, PARAMETERs and LICENSE go on, as far as a tag with them can be proven. How it renders does
not: prompts are those of the chat template in its file, the only ones that can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ollama_bridge.client import Client, ModelDetails
from ollama_bridge.client.built_in import built_in_code
from ollama_bridge.daemon.era import default_repeat_penalty, samples_as_file_says
from ollama_bridge.errors import ConfigError
from ollama_bridge.modelfile import Modelfile, ParameterValue
from ollama_bridge.option_kinds import OPTION_KINDS
from ollama_bridge.recipe.config import ModelfileSection
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.rendering import completion_template
from ollama_bridge.storage.artifacts import Checkpoint
from ollama_bridge.verification import shown_modelfile
from ollama_bridge.verify.settings import read_parameters

_PENALISED_TOKENS = 64  # the daemon's own repeat_last_n
_NO_TEMPLATE = "{{ .Prompt }}"  # what the daemon shows of a tag without one


@dataclass(frozen=True)
class SourceTag:
    """A tag that another one is made of, or of an adapter on it.

    Attributes:
        name: As it was asked for.
        system: SYSTEM.
        parameters: PARAMETER lines that this package carries.
        license: LICENSE.
        renderer: RENDERER, which goes before a TEMPLATE.
        parser: PARSER, which goes before what a TEMPLATE tells of thinking and tools.
        template: TEMPLATE, where it has one.
        lost: What else it has, and why not, in words.
        is_greedy: Whether its file says a temperature of 0, which no import keeps.
        is_base: Whether an adapter is what the other one is made of.
    """

    name: str
    system: str | None
    parameters: Mapping[str, ParameterValue]
    license: str | None
    renderer: str | None
    parser: str | None
    template: str | None
    lost: tuple[str, ...]
    is_greedy: bool = False
    is_base: bool = False

    @classmethod
    def read(cls, client: Client, tag: str, *, is_base: bool = False) -> SourceTag:
        """Ask the daemon.

        Raises:
            ModelNotFoundError: the daemon has no such tag.
            ModelfileError: a parameter is of a type that the daemon would fail with.
            DaemonError: it does not answer.
        """
        details = client.show(tag)
        shown = shown_modelfile(details, tag)
        built_in = built_in_code(details)
        return cls(
            name=tag,
            system=shown.system,
            parameters=shown.parameters,
            license=str(details.raw.get("license") or "").strip() or None,
            renderer=built_in.get("RENDERER"),
            parser=built_in.get("PARSER"),
            template=shown.template if shown.template != _NO_TEMPLATE else None,
            lost=tuple(_lost(details)),
            is_greedy=_is_greedy(details.model_info),
            is_base=is_base,
        )

    def check_chat_format(self, checkpoint: Checkpoint, asked: ModelfileSection) -> None:
        """Make sure that the chat format is in its file: prompts cannot be those of its TEMPLATE.

        Args:
            checkpoint: What its file was imported as.
            asked: Settings of the tag that is made.

        Raises:
            ConfigError: it is in its TEMPLATE alone.
        """
        from ollama_bridge.models.load import load_tokenizer
        from ollama_bridge.models.settings.chat_template import chat_template_of

        if asked.template != "auto" or (self.template is None and self.renderer is None):
            return
        if self.renderer is None and self.template == completion_template():
            return
        if chat_template_of(load_tokenizer(checkpoint.path)) is None:
            raise ConfigError(
                f"{self.name} has its chat format only in "
                f"{'RENDERER' if self.renderer else 'TEMPLATE'}; its GGUF has no chat template "
                "to prove a new tag against",
                hint="give the chat template of the model that it was made from: --chat-template "
                "FILE.jinja; for a tag that continues texts: --template completion",
            )

    def provable(
        self, checkpoint: Checkpoint, asked: ModelfileSection, *, system: str | None
    ) -> SourceTag:
        """Without what its checkpoint cannot be proven with, which is lost.

        Args:
            checkpoint: What its file was imported as.
            asked: Settings of the tag that is made.
            system: SYSTEM that was asked for.
        """
        from ollama_bridge.models.system_prompt import loss_of_system

        kept = self
        loss = loss_of_system(checkpoint.path) if self.system and system is None else None
        if loss is not None:
            said = f"SYSTEM ({self._chat_template} {loss} one)"
            kept = replace(kept, system=None, lost=(*kept.lost, said))
        num_ctx, limit = self.parameters.get("num_ctx"), _unstretched_context(checkpoint)
        if limit is None or not isinstance(num_ctx, int) or num_ctx <= limit:
            return kept
        if "num_ctx" in asked.parameters:
            return kept
        said = (
            f"PARAMETER num_ctx {num_ctx} (above {limit}, short texts are computed differently "
            "than by the checkpoint; a request can raise it with options.num_ctx)"
        )
        others = {name: value for name, value in self.parameters.items() if name != "num_ctx"}
        return replace(kept, parameters=others, lost=(*kept.lost, said))

    def settings(self, asked: ModelfileSection) -> ModelfileSection:
        """What was asked for, over what this tag has.

        Args:
            asked: Settings of the tag that is made.
        """
        return asked.model_copy(
            update={
                "parameters": {**self.parameters, **asked.parameters},
                "license": asked.license or self.license,
            }
        )

    def unsaid(self, reference: ReferenceValues, version: str) -> dict[str, ParameterValue | None]:
        """What stands for PARAMETERs that this tag has not: what a daemon does without them.

        Those that change each answer are written all the same, so that nobody takes them for lost;
        but for the context, which depends on the machine's memory. An adapter is new: there it is
        as with any checkpoint.

        Args:
            reference: Of its checkpoint.
            version: Of the daemon.
        """
        if self.is_base:
            return {}
        unsaid: dict[str, ParameterValue | None] = {
            "num_predict": -1,
            "repeat_penalty": default_repeat_penalty(version),
            "temperature": 0.8,
        }
        if samples_as_file_says(version):
            unsaid |= _of_the_file(reference.generation)
            unsaid |= {"temperature": 0.0} if self.is_greedy else {}
        return unsaid if reference.unstretched_context is not None else {**unsaid, "num_ctx": None}

    def kept(self, asked: ModelfileSection, *, system: str | None) -> str | None:
        """What of it the other tag has, in a sentence; None: nothing.

        Args:
            asked: Settings of the tag that is made.
            system: SYSTEM that was asked for.
        """
        names = sorted(self.parameters.keys() - asked.parameters.keys())
        parts = (
            "SYSTEM" if self.system and system is None else "",
            f"PARAMETER {', '.join(names)}" if names else "",
            "LICENSE" if self.license and not asked.license else "",
        )
        said = "; ".join(part for part in parts if part)
        others = "--system, --parameter, --license"
        return f"the tag keeps from {self.name}: {said} (else: {others})" if said else None

    def not_kept(self, asked: ModelfileSection, made: Modelfile) -> str | None:
        """What of it the other tag has not, in a sentence; None: nothing.

        Args:
            asked: Settings of the tag that is made.
            made: What came of them.
        """
        lost = list(self.lost)
        if asked.template == "auto" and self._is_rendered_otherwise(made):
            name = "TEMPLATE" if self.renderer is None else "RENDERER"
            lost.append(f"{name} (the proof is of {self._chat_template})")
        if asked.template == "auto" and self.parser not in (None, made.parser):
            said = f"thoughts and tool calls are found as {self._chat_template} writes them"
            lost.append(f"PARSER {self.parser} ({said})")
        return f"the tag does not keep from {self.name}: {'; '.join(lost)}" if lost else None

    @property
    def _chat_template(self) -> str:
        if self.is_base:
            return "the merged model's chat template"
        return "the chat template in its file"

    def _is_rendered_otherwise(self, made: Modelfile) -> bool:
        if self.renderer is not None:
            return made.renderer != self.renderer
        return self.template not in (None, made.template)


def _of_the_file(generation: Mapping[str, Any]) -> dict[str, ParameterValue]:
    """What ``general.sampling.*`` says, as it was imported."""
    said: dict[str, ParameterValue] = {}
    if generation.get("do_sample"):
        names = ("temperature", "top_k", "top_p", "min_p")
        said |= {name: generation[name] for name in names if name in generation}
    if generation.get("repetition_penalty", 1.0) != 1:
        said["repeat_penalty"] = generation["repetition_penalty"]
        said["repeat_last_n"] = _PENALISED_TOKENS  # not the whole text, as transformers has it
    return said


def _is_greedy(metadata: Mapping[str, Any]) -> bool:
    said = metadata.get("general.sampling.temp")
    return isinstance(said, int | float) and said <= 0


def _unstretched_context(checkpoint: Checkpoint) -> int | None:
    from ollama_bridge.models.architectures import ARCHITECTURES
    from ollama_bridge.models.safety import read_architecture, read_config

    config = read_config(checkpoint.path)
    architecture = ARCHITECTURES[read_architecture(checkpoint.path, config)]
    return architecture.unstretched_context(config)


def _lost(details: ModelDetails) -> Iterator[str]:
    unknown = sorted(read_parameters(details.parameters).keys() - OPTION_KINDS.keys())
    if unknown:
        yield f"PARAMETER {', '.join(unknown)}"
    if required := details.raw.get("requires"):
        yield f"REQUIRES {required}"
    if details.raw.get("messages"):
        yield "MESSAGE"
    if details.raw.get("projector_info"):
        yield "the vision part (a second FROM)"
