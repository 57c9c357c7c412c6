"""A checkpoint, made here or elsewhere, becomes a proven tag: ``_Package.run`` is the order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.assets import home_dir
from ollama_bridge.client import Client
from ollama_bridge.daemon.ensure import ensure_daemon
from ollama_bridge.daemon.era import NO_ADAPTER, has_limit
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.extras import require_training_extra
from ollama_bridge.modelfile import check_tag
from ollama_bridge.models.sources.references import parse_reference
from ollama_bridge.packaging.probes import Probes, find_probes, find_values
from ollama_bridge.packaging.settings import (
    IN_OLLAMA,
    check_replaces_no_source,
    check_served_apart,
    describe_unsaid,
    read_settings,
)
from ollama_bridge.packaging.source_tag import SourceTag
from ollama_bridge.publishing.papers import read_license, write_card
from ollama_bridge.publishing.publication import check_publication, publish, publish_command
from ollama_bridge.quantization.file_types import parse
from ollama_bridge.reference import ReferenceValues, noise_types_of
from ollama_bridge.renderer_choice import Chooser, with_values
from ollama_bridge.reporting import JSONLReporter, Note, NullReporter, Reporter, TeeReporter
from ollama_bridge.run_folder import EVENTS_NAME, hold_run, tag_file_name
from ollama_bridge.storage.artifacts import (
    AdapterFile,
    Checkpoint,
    Corpus,
    GGUFFile,
    RegisteredModel,
)

if TYPE_CHECKING:
    from ollama_bridge.conversion import Target
    from ollama_bridge.recipe.config import ModelfileSection


def package(
    checkpoint: str | Path,
    tag: str,
    *,
    recipe_modelfile: Mapping[str, object] | None = None,
    system: str | None = None,
    base: str | Path | None = None,
    chat_template: str | Path | None = None,
    adapter: bool = False,
    gguf_type: str = "q8_0",
    target: Target | None = None,
    corpus: Corpus | None = None,
    imatrix: str | Path | None = None,
    renderer: bool = True,
    force: bool = False,
    link: bool = True,
    publish_to: str | None = None,
    license_file: str | Path | None = None,
    insecure: bool = False,
    out_dir: str | Path | None = None,
    host: str | None = None,
    reporter: Reporter | None = None,
) -> RegisteredModel:
    """Convert a checkpoint, write its Modelfile, register it and prove what is served.

    Args:
        checkpoint: A model reference; usually a Hugging Face folder.
        tag: The tag in Ollama.
        recipe_modelfile: Settings as in a recipe's ``modelfile`` section.
        system: SYSTEM of the tag; None: that of an ``ollama:`` tag (an adapter's base, too), else
            the one that was trained with here, else the default of the chat template, if any.
        base: Of a PEFT adapter: reference of the model that it was trained on; None: the one that
            it names.
        chat_template: A file with the chat template, in Jinja, in place of the checkpoint's own.
        adapter: Of a PEFT adapter: serve it on top of its base, where the daemon can, instead of
            merging it; proven against the merged model all the same.
        gguf_type: One of ``quantization.file_types.FILE_TYPES``.
        target: A quality budget or a size (``conversion.Target``), instead of ``gguf_type``.
        corpus: Its held-out texts are what a target is measured on; None: the model's own answers.
        imatrix: An importance matrix for types of blocks, in a format of llama.cpp.
        renderer: Where Go loses tools, calls or thinking of the chat template, let code of Ollama's
            own render it or read its answers, or its Jinja, if one is seen to do it right.
        force: Keep a model whose proof fails, under ``TAG-unverified``.
        link: Hard-link the GGUF into the daemon's store where that is ours, instead of uploading.
        publish_to: Publish the proven tag there: ``REGISTRY/NAMESPACE/NAME:TAG``.
        license_file: Text of the tag's LICENSE, in place of that of an ``ollama:`` tag.
        insecure: Speak plain http to a registry of another machine.
        out_dir: Folder of the artefacts; None: ``runs/package-TAG`` in our home folder.
        host: Address of the daemon; None: ``OLLAMA_HOST``, else the default port.
        reporter: Hears of progress.

    Raises:
        OllamaBridgeError: what went wrong and what to do.
    """
    checkpoint, base = str(checkpoint), str(base) if base is not None else None
    chat_template = Path(chat_template) if chat_template is not None else None
    imatrix = Path(imatrix) if imatrix is not None else None
    license_file = Path(license_file) if license_file is not None else None
    out_dir = Path(out_dir) if out_dir is not None else None
    check_tag(tag)
    gguf_type = parse(gguf_type)
    check_replaces_no_source(tag, (checkpoint, base), gguf_type, force=force)
    if adapter:
        check_served_apart(target=target, chat_template=chat_template)
    if publish_to is not None:
        check_publication(publish_to, insecure=insecure)
    license_text = read_license(license_file)
    require_training_extra()
    settings = read_settings(recipe_modelfile or {}, license_text)
    run_dir = (out_dir or home_dir() / "runs" / f"package-{tag_file_name(tag)}").absolute()
    with (
        hold_run(run_dir),
        JSONLReporter(run_dir / EVENTS_NAME) as events,
        Client(host) as client,
    ):
        stages = _Package(
            checkpoint=checkpoint,
            base=base,
            chat_template=chat_template,
            as_adapter=adapter,
            tag=tag,
            settings=settings,
            system=system,
            gguf_type=gguf_type,
            target=target,
            corpus=corpus,
            imatrix=imatrix,
            may_use_renderer=renderer,
            force=force,
            link=link,
            run_dir=run_dir,
            client=client,
            host=host,
            reporter=TeeReporter(events, reporter or NullReporter()),
        )
        model = stages.run()
        stages.hand_on(model, publish_to, insecure=insecure)
        return model


@dataclass(frozen=True, kw_only=True)
class _Package:
    """The stages of one package, with what :func:`package` was asked for."""

    checkpoint: str
    base: str | None
    chat_template: Path | None
    as_adapter: bool
    tag: str
    settings: ModelfileSection
    system: str | None
    gguf_type: str
    target: Target | None
    corpus: Corpus | None
    imatrix: Path | None
    may_use_renderer: bool
    force: bool
    link: bool
    run_dir: Path
    client: Client
    host: str | None
    reporter: Reporter

    def run(self) -> RegisteredModel:
        """All of them, in order. A bad checkpoint is told before a daemon is started for it."""
        from ollama_bridge.models.sources.merge import base_with_values

        if any(text and text.startswith(IN_OLLAMA) for text in (self.checkpoint, self.base)):
            self.ensure_daemon()
        parts, original = self.resolve()
        whole = self.with_chat_template(original)
        self.check_can_be_written(whole)
        lora = None if parts is None else self.convert_adapter(*parts)
        source_tag = self.find_source_tag(whole)
        probes = find_probes(
            whole,
            find_values(original, self.reporter),
            name=self.checkpoint,
            asked=self.system,
            of_source=None if source_tag is None else source_tag.system,
            reporter=self.reporter,
        )
        source = self.with_values(whole, probes, may_use_renderer=lora is None)
        if parts is not None and lora is not None:
            source = base_with_values(parts[1], source, out_dir=self.run_dir / "base")
        gguf = self.convert(source)
        return self.register(gguf, lora, probes, source_tag)

    def ensure_daemon(self) -> None:
        """One answers from here on."""
        ensure_daemon(reporter=self.reporter, host=self.host)

    def resolve(self) -> tuple[tuple[Path, Checkpoint] | None, Checkpoint]:
        """Adapter and base, where they are to be served apart, and the whole model."""
        from ollama_bridge.models.sources.resolve import resolve_adapter, resolve_model

        models_dir, parts = home_dir() / "models", None
        if self.as_adapter:
            parts = resolve_adapter(
                self.checkpoint,
                cache_dir=models_dir,
                base=self.base,
                client=self.client,
                reporter=self.reporter,
            )
        whole = resolve_model(
            self.checkpoint,
            cache_dir=models_dir,
            base=self.base,
            client=self.client,
            reporter=self.reporter,
        )
        return parts, whole

    def with_chat_template(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with the chat template that was given."""
        from ollama_bridge.models.sources.given_template import with_chat_template

        if self.chat_template is None:
            return checkpoint
        return with_chat_template(
            checkpoint,
            self.chat_template,
            cache_dir=home_dir() / "models",
            reporter=self.reporter,
        )

    def check_can_be_written(self, checkpoint: Checkpoint) -> None:
        """Refuse what no file can be made of, as it is asked for, before values are computed."""
        from ollama_bridge.build_checks import check_can_be_written
        from ollama_bridge.conversion.imatrix import read_importance

        check_can_be_written(checkpoint)
        if self.imatrix is not None:
            read_importance(self.imatrix)
        if self.target is not None and self.target.size_bytes is not None:
            from ollama_bridge.conversion.budget_model import check_reachable

            check_reachable(checkpoint, self.target)

    def convert_adapter(self, adapter: Path, base: Checkpoint) -> AdapterFile | None:
        """The adapter's file, made before values are computed, as not every adapter can be one.

        None: the daemon takes no adapter.
        """
        from ollama_bridge.conversion import convert_adapter

        self.ensure_daemon()  # its version decides
        version = self.client.version()
        if has_limit(version, NO_ADAPTER):
            said = f"Ollama {version} accepts no LoRA adapter: {NO_ADAPTER.instead}"
            self.reporter.emit(Note("package", "warning", said))
            return None
        out_dir = self.run_dir / "adapter"
        return convert_adapter(adapter, base, out_dir=out_dir, reporter=self.reporter)

    def find_source_tag(self, checkpoint: Checkpoint) -> SourceTag | None:
        """The tag that it, or the base of an adapter, is made of, where there is one."""
        reference = parse_reference(self.checkpoint if self.base is None else self.base)
        if reference.kind != "ollama":
            return None
        is_base = self.base is not None
        read = SourceTag.read(self.client, reference.value, is_base=is_base)
        read.check_chat_format(checkpoint, self.settings)
        source_tag = read.provable(checkpoint, self.settings, system=self.system)
        if kept := source_tag.kept(self.settings, system=self.system):
            self.reporter.emit(Note("package", "info", kept))
        return source_tag

    def with_values(
        self, checkpoint: Checkpoint, probes: Probes, *, may_use_renderer: bool
    ) -> Checkpoint:
        """The checkpoint with what the proof compares, for who renders the tag's prompts."""
        chooser = Chooser(
            client=self.client,
            out_dir=self.run_dir / "renderers",
            reporter=self.reporter,
            ensure_daemon=self.ensure_daemon,
        )
        may_use_renderer &= self.may_use_renderer and self.settings.template == "auto"
        return with_values(
            checkpoint,
            system=probes.system,
            labels=probes.labels,
            # A file whose types are chosen one by one records its own noise.
            noise_types=noise_types_of(self.gguf_type) if self.target is None else (),
            chooser=chooser if may_use_renderer else None,
            out_dir=self.run_dir / "checkpoint",
            reporter=self.reporter,
        )

    def convert(self, source: Checkpoint) -> GGUFFile:
        """The file that is served."""
        from ollama_bridge.conversion import convert

        return convert(
            source,
            type=self.gguf_type,
            imatrix=self.imatrix,
            target=self.target,
            corpus=self.corpus,
            out_dir=self.run_dir / f"gguf-{'budget' if self.target else self.gguf_type}",
            reporter=self.reporter,
        )

    def register(
        self,
        gguf: GGUFFile,
        adapter: AdapterFile | None,
        probes: Probes,
        source_tag: SourceTag | None,
    ) -> RegisteredModel:
        """The tag, proven."""
        from ollama_bridge.registration import register
        from ollama_bridge.rendering import render
        from ollama_bridge.tag_parameters import name_unsaid

        settings, unsaid = self.settings, {}
        reference = ReferenceValues.read(gguf.reference_path)
        if source_tag is not None:
            settings = source_tag.settings(settings)
            unsaid = source_tag.unsaid(reference, self.client.version())
        modelfile = render(gguf, settings=settings, system=probes.system, unsaid=unsaid)
        names = name_unsaid(modelfile.parameters, reference, settings.parameters)
        for said in describe_unsaid(self.checkpoint, names, modelfile.parameters):
            self.reporter.emit(Note("package", "info", said))
        if source_tag is not None and (lost := source_tag.not_kept(settings, modelfile)):
            self.reporter.emit(Note("package", "warning", lost))
        self.ensure_daemon()
        return register(
            gguf,
            modelfile,
            self.tag,
            client=self.client,
            out_dir=self.run_dir / "tag",
            adapter=adapter,
            reporter=self.reporter,
            force=self.force,
            link=self.link,
        )

    def hand_on(self, model: RegisteredModel, publish_to: str | None, *, insecure: bool) -> None:
        """The tag's card; and the tag in a registry, where one is named and the proof holds."""
        write_card(model.tag, self.run_dir, host=self.host, reporter=self.reporter)
        if publish_to is None:
            return
        if model.facts["forced"]:
            unsent = f"{model.tag} is not published: its proof failed"
            self.reporter.emit(Note("publish", "warning", unsent))
            return
        try:
            publish(
                model.tag,
                publish_to,
                run_dir=self.run_dir,
                insecure=insecure,
                host=self.host,
                reporter=self.reporter,
            )
        except OllamaBridgeError as exc:
            command = publish_command(
                model.tag, publish_to, run_dir=self.run_dir, insecure=insecure, host=self.host
            )
            exc.message = f"{model.tag} is made and proven, but not published: {exc.message}"
            exc.args = (exc.message,)  # which str() shows
            exc.hint = f"{exc.hint}; the tag alone: {command}" if exc.hint else command
            raise
