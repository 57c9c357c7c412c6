"""Chooses who renders a tag's prompts and reads its answers: Go, or code or Jinja of Ollama's own.

One rule for whatever is made of a checkpoint, by ``build`` or by ``package``: a Go TEMPLATE, where
that loses nothing; else what of Ollama's own is seen to give back what it loses, on the daemon
that is there; else the TEMPLATE all the same, and a note names what the tag does without.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import ClassVar

from ollama_bridge.client import Client, ModelDetails
from ollama_bridge.daemon.era import NO_JINJA, has_limit
from ollama_bridge.digests import JSONValue, canonical_json, digest_text
from ollama_bridge.errors import ArtifactError, DaemonError
from ollama_bridge.reference import REFERENCE_KEY, ReferenceValues, ServedTemplate
from ollama_bridge.reporting import Note, Reporter, Timed
from ollama_bridge.storage.artifacts import Artifact, Checkpoint, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.template.authority import (
    CALLS,
    TOOLS,
    AnswerParser,
    NativeJinja,
    OllamasOwn,
    Renderer,
)
from ollama_bridge.template.jinja import ChatTemplate

_STAGE = "renderer"
_VERSION = 3  # raised when something else is tried, or seen
_SHOWN = 12  # digits of a digest in the name of a folder


_KINDS: Mapping[str, type[OllamasOwn]] = {
    "renderer": Renderer,
    "jinja": NativeJinja,
    "parser": AnswerParser,
}


class RendererChoice(Artifact):
    """What was seen to serve a chat template on a daemon; its facts say it, it has no files."""

    kind: ClassVar[str] = "renderer"

    @property
    def found(self) -> OllamasOwn | None:
        """It; None: nothing but what ``template`` decides on."""
        for name, kind in _KINDS.items():
            if name in self.facts:
                return kind(**self.facts[name])
        return None

    @staticmethod
    def facts_of(found: OllamasOwn | None) -> dict[str, JSONValue]:
        """What :attr:`found` reads."""
        return {name: asdict(found) for name, kind in _KINDS.items() if isinstance(found, kind)}


@dataclass(frozen=True, kw_only=True)
class Chooser:
    """Where to look for what serves in place of Go, and who needs it.

    Attributes:
        client: Speaks to the daemon.
        out_dir: What was found is kept here, by chat template.
        reporter: Hears of what was found.
        needed: Of tools and thinking, what the texts that were trained on have; asked where the
            tag does without.
        ensure_daemon: Starts the daemon, where something is to be tried.
    """

    client: Client
    out_dir: Path
    reporter: Reporter
    needed: Callable[[], Collection[str]] = tuple
    ensure_daemon: Callable[[], None] = lambda: None

    def choose(self, checkpoint: Checkpoint) -> OllamasOwn | None:
        """What serves a checkpoint in place of Go, or beside it.

        A finished choice is taken as it is, for the same chat template and version of the daemon.

        Args:
            checkpoint: With the values of the tag that Go would render.

        Returns:
            None: Go loses nothing, or nothing was seen to give it back.

        Raises:
            DaemonError: the daemon could not answer, or nothing in its version renders the chat
                template.
        """
        from ollama_bridge.models.load import load_tokenizer
        from ollama_bridge.models.settings.chat_template import chat_template_of

        served = ReferenceValues.read(checkpoint.reference_path).template
        if served is None or (served.go is not None and not served.lost):
            return None
        template = chat_template_of(load_tokenizer(checkpoint.path))
        if template is None:
            return None
        self.ensure_daemon()
        version = self.client.version()
        found = self._find(template, served, version)
        if found is None and served.go is None and has_limit(version, NO_JINJA):
            raise DaemonError(
                f"Ollama {version} cannot render the chat template, and has no renderer that does: "
                f"{served.reason}",
                hint="update Ollama to 0.30 or later, and run the same command again",
            )
        self._tell(served, found, version, checkpoint)
        return found

    def _find(
        self, template: ChatTemplate, served: ServedTemplate, version: str
    ) -> OllamasOwn | None:
        text: JSONValue = {
            "source": template.source,
            "special": dict(template.special),
            "adds_bos": template.adds_bos,
        }
        digest = digest_text(canonical_json(text))
        work = Work(
            kind=RendererChoice.kind,
            stage=_STAGE,
            version=_VERSION,
            inputs={"chat_template": digest, "go": digest_text(served.go or "")},
            settings={"daemon": version},
        )
        out_dir = self.out_dir / digest[:_SHOWN]
        with Timed(self.reporter, _STAGE) as timer, open_draft(out_dir, work) as draft:
            if draft.finished is not None:
                timer.reuse(out_dir)
                return RendererChoice(out_dir, draft.finished).found
            found = _look(self.client, template, served)
            manifest = draft.commit(RendererChoice.facts_of(found))
            timer.finish(out_dir, manifest.facts)
            return found

    def _tell(
        self, served: ServedTemplate, found: OllamasOwn | None, version: str, checkpoint: Checkpoint
    ) -> None:
        missed = _missed(served, found)
        said = f"{_why(served)}; {_named(found)} of Ollama {version} can"
        if missed and found is not None:
            said += f", but for the {' and '.join(missed)}"
        if missed and has_limit(version, NO_JINJA):
            said += "; 0.30 or later may, by its own Jinja: update it, run the same command again"
        needed = set(self.needed()) if missed else set()
        untold = [name for name in missed if name in needed or (name == CALLS and TOOLS in needed)]
        if not untold:
            self.reporter.emit(Note(_STAGE, "info", said))
            return
        message = (
            f"the training data have what the tag will do without, {' and '.join(untold)}: {said}. "
            "A server that runs the chat template itself, as llama.cpp's does, may: "
            f"ollama-bridge convert {quote(str(checkpoint.path))} --standalone"
        )
        self.reporter.emit(Note(_STAGE, "warning", message))


def _why(served: ServedTemplate) -> str:
    """What of a chat template Go loses, in a sentence."""
    parts = [name for name in served.lost if name != CALLS]
    what = "prompts" if served.go is None else " and ".join(parts)
    said = [f"Go cannot express the {what} of the chat template"] if what else []
    if CALLS in served.lost:
        said.append("with a Go template Ollama cannot tell tool calls from the text of answers")
    return ", and ".join(said)


def _missed(served: ServedTemplate, found: OllamasOwn | None) -> tuple[str, ...]:
    """What a tag does without."""
    if isinstance(found, Renderer | NativeJinja):
        return ()
    return tuple(name for name in served.lost if name != CALLS or found is None)


def _named(found: OllamasOwn | None) -> str:
    if isinstance(found, Renderer):
        return f"RENDERER {found.name}"
    if isinstance(found, AnswerParser):
        return f"PARSER {found.parser}"
    return "neither a RENDERER nor the own Jinja" if found is None else "the own Jinja"


def _look(client: Client, template: ChatTemplate, served: ServedTemplate) -> OllamasOwn | None:
    """The first of Ollama's own that gives back what Go loses, and takes nothing."""
    from ollama_bridge.verify.native_jinja import find_native_jinja
    from ollama_bridge.verify.parsers import find_parser
    from ollama_bridge.verify.readings import check_can_be_tried
    from ollama_bridge.verify.renderers import find_renderer

    kept, go = served.capabilities, served.go
    parts = [name for name in served.lost if name != CALLS]
    find_reader = functools.partial(find_parser, client, template, go or "", kept=kept)
    found: OllamasOwn | None = None
    if CALLS in served.lost and not parts:
        found = find_reader()  # prompts stay as they were proven
    if found is None:
        found = find_renderer(client, template)
    if found is None and go is not None:
        found = find_native_jinja(client, template, lost=parts, kept=kept)
    if found is None and CALLS in served.lost and parts:
        found = find_reader()
    if found is None:
        check_can_be_tried(client)
    return found


def with_values(
    checkpoint: Checkpoint,
    *,
    system: str | None,
    labels: tuple[str, ...],
    noise_types: Sequence[str],
    chooser: Chooser | None,
    out_dir: Path,
    reporter: Reporter,
) -> Checkpoint:
    """The same weights with the values that prove a tag, for who renders and reads it.

    Args:
        checkpoint: What the tag is made of.
        system: SYSTEM of the tag; None: the chat template's default, if any.
        labels: Answers of a classification.
        noise_types: Of ``reference.NOISE_TYPES``, those of the files.
        chooser: Looks for what gives back what Go loses; None: it is not looked for.
        out_dir: Folder of the values; those for what was found have ``-renderer`` behind it.
        reporter: Hears of progress.

    Raises:
        DaemonError: as :meth:`Chooser.choose` does.
        ModelError: the checkpoint cannot be loaded, memory is short, or its chat template fails.
        ConversionError: no GGUF can say how it computes.
    """
    from ollama_bridge.models.reference.values import with_reference_values

    compute = functools.partial(
        with_reference_values,
        checkpoint,
        system=system,
        labels=labels,
        noise_types=noise_types,
        reporter=reporter,
    )
    source = compute(out_dir=out_dir)
    found = chooser.choose(source) if chooser is not None else None
    if found is None:
        return source
    return compute(renderer=found, out_dir=out_dir.with_name(f"{out_dir.name}-renderer"))


def renderer_of(details: ModelDetails) -> OllamasOwn | None:
    """What was chosen when a tag was made, by the values that it carries.

    A tag may say what it likes: its prompts are held against the chat template all the same.

    Returns:
        None: it carries no values that can be read, or Go renders, or nothing else could.
    """
    text = details.model_info.get(REFERENCE_KEY)
    try:
        served = ReferenceValues.parse(text, where=REFERENCE_KEY).template if text else None
    except ArtifactError:
        return None
    if served is None or not served.conversations:
        return None
    if served.renderer is not None:
        return Renderer(served.renderer, served.parser or "", served.conversations)
    if served.parser is not None:
        return AnswerParser(served.parser)
    return NativeJinja(served.conversations) if served.authority == "jinja" else None
