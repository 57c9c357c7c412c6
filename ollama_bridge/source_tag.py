"""What a tag says beside its weights, where another tag is made of it.

SYSTEM, PARAMETERs and LICENSE go on. How it renders does not: prompts are those of the chat
template in its file, the only ones that can be proven.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ollama_bridge.client import Client, ModelDetails
from ollama_bridge.config import ModelfileSection
from ollama_bridge.modelfile import Modelfile, ParameterValue
from ollama_bridge.option_kinds import OPTION_KINDS
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.verification import modelfile_of
from ollama_bridge.verify.settings import read_parameters

_NO_TEMPLATE = "{{ .Prompt }}"  # what the daemon shows of a tag without one
_RENDERER = re.compile(r"^RENDERER (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class SourceTag:
    """A tag that another one is made of.

    Attributes:
        name: As it was asked for.
        system: SYSTEM.
        parameters: PARAMETER lines that this package carries.
        license: LICENSE.
        renderer: RENDERER, which goes before a TEMPLATE.
        template: TEMPLATE, where it has one.
        lost: What else it has, in words.
    """

    name: str
    system: str | None
    parameters: Mapping[str, ParameterValue]
    license: str | None
    renderer: str | None
    template: str | None
    lost: tuple[str, ...]

    @classmethod
    def read(cls, client: Client, tag: str) -> SourceTag:
        """Ask the daemon.

        Raises:
            ModelNotFoundError: the daemon has no such tag.
            ModelfileError: a parameter is of a type that the daemon would fail with.
            DaemonError: it does not answer.
        """
        details = client.show(tag)
        shown = modelfile_of(details, tag)
        renderer = _RENDERER.search(details.modelfile)
        return cls(
            name=tag,
            system=shown.system,
            parameters=shown.parameters,
            license=str(details.raw.get("license") or "").strip() or None,
            renderer=renderer[1] if renderer else None,
            template=shown.template if shown.template != _NO_TEMPLATE else None,
            lost=tuple(_lost(details)),
        )

    def settings(self, asked: ModelfileSection, reference: ReferenceValues) -> ModelfileSection:
        """What was asked for, over what this tag has; answers end where the checkpoint's do, too.

        Args:
            asked: Settings of the tag that is made.
            reference: Names the ends.
        """
        kept = dict(self.parameters)
        stops = kept.get("stop")
        if isinstance(stops, tuple):
            ends = (token.text for token in reference.end_tokens)
            kept["stop"] = tuple(dict.fromkeys((*ends, *stops)))
        return asked.model_copy(
            update={
                "parameters": {**kept, **asked.parameters},
                "license": asked.license or self.license,
            }
        )

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
        return (
            f"the tag keeps of {self.name}: {said} (else: --system, --parameter)" if said else None
        )

    def not_kept(self, asked: ModelfileSection, made: Modelfile) -> str | None:
        """What of it the other tag has not, in a sentence; None: nothing.

        Args:
            asked: Settings of the tag that is made.
            made: What came of them.
        """
        lost = list(self.lost)
        if asked.template == "auto" and self._is_rendered_otherwise(made):
            name = "TEMPLATE" if self.renderer is None else "RENDERER"
            lost.append(f"{name} (proven is the chat template in its file)")
        return f"the tag does not keep of {self.name}: {'; '.join(lost)}" if lost else None

    def _is_rendered_otherwise(self, made: Modelfile) -> bool:
        if self.renderer is not None:
            return made.renderer != self.renderer
        return self.template not in (None, made.template)


def _lost(details: ModelDetails) -> Iterator[str]:
    unknown = sorted(read_parameters(details.parameters).keys() - OPTION_KINDS.keys())
    if unknown:
        yield f"PARAMETER {', '.join(unknown)}"
    if details.raw.get("messages"):
        yield "MESSAGE"
    if details.raw.get("projector_info"):
        yield "what sees images (a second FROM)"
