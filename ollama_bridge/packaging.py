"""Checkpoints and tags that were made elsewhere: package, look at, verify."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ollama_bridge.artifacts import (
    AdapterFile,
    Checkpoint,
    Corpus,
    RegisteredModel,
)
from ollama_bridge.assets import home_dir
from ollama_bridge.client import Client
from ollama_bridge.daemon.ensure import ensure_daemon
from ollama_bridge.daemon.era import NO_ADAPTER, has_limit
from ollama_bridge.errors import ConfigError, ModelError
from ollama_bridge.extras import require_training_extra
from ollama_bridge.modelfile import check_tag
from ollama_bridge.pipeline import EVENTS_NAME, tag_file_name
from ollama_bridge.publication import check_publication, publish
from ollama_bridge.quantization.file_types import parse
from ollama_bridge.reference import ReferenceValues, noise_types_of
from ollama_bridge.reporting import JSONLReporter, Note, NullReporter, Reporter, TeeReporter
from ollama_bridge.run_folder import hold_run
from ollama_bridge.template.authority import Renderer, Served, decide, lost_by
from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.verification import type_of, verify_tag
from ollama_bridge.verify.certificate import Certificate

if TYPE_CHECKING:
    from ollama_bridge.conversion import Target

_UNPROVEN = "its proof failed"


def package(
    checkpoint: str,
    tag: str,
    *,
    recipe_modelfile: Mapping[str, object] | None = None,
    system: str | None = None,
    base: str | None = None,
    adapter: bool = False,
    gguf_type: str = "q8_0",
    target: Target | None = None,
    corpus: Corpus | None = None,
    imatrix: Path | None = None,
    renderer: bool = True,
    force: bool = False,
    link: bool = True,
    publish_to: str | None = None,
    license_file: Path | None = None,
    insecure: bool = False,
    out_dir: Path | None = None,
    host: str | None = None,
    reporter: Reporter | None = None,
) -> RegisteredModel:
    """Convert a checkpoint, write its Modelfile, register it and prove what is served.

    Args:
        checkpoint: A model reference; usually a Hugging Face folder.
        tag: The tag in Ollama.
        recipe_modelfile: Settings as in a recipe's ``modelfile`` section.
        system: SYSTEM of the tag; None: the one that the checkpoint was trained with here, else the
            default of its chat template, if any.
        base: Of a PEFT adapter: reference of the model that it was trained on; None: the one that
            it names.
        adapter: Of a PEFT adapter: serve it on top of its base, where the daemon can, instead of
            merging it; proven against the merged model all the same.
        gguf_type: One of ``quantization.file_types.FILE_TYPES``.
        target: A quality budget or a size (``conversion.Target``), instead of ``gguf_type``.
        corpus: Its held-out texts are what a target is measured on; None: the model's own answers.
        imatrix: An importance matrix for types of blocks, in a format of llama.cpp.
        renderer: Where Go loses tools or thinking of the chat template, let code of Ollama's own
            render it, if some is seen to render it right.
        force: Keep a model whose proof fails, under ``TAG-unverified``.
        link: Hard-link the GGUF into the daemon's store where that is ours, instead of uploading.
        publish_to: Publish the proven tag there: ``REGISTRY/NAMESPACE/NAME:TAG``.
        license_file: Text to publish as licence.
        insecure: Speak plain http to a registry of another machine.
        out_dir: Folder of the artefacts; None: ``runs/package-TAG`` in our home folder.
        host: Address of the daemon; None: ``OLLAMA_HOST``, else the default port.
        reporter: Hears of progress.

    Raises:
        OllamaBridgeError: what went wrong and what to do.
    """
    check_tag(tag)
    if adapter and target is not None:
        raise ConfigError(
            "a budget is measured on the merged model, and --adapter serves another file",
            hint="leave out --adapter, or --budget and --max-size",
        )
    if publish_to is not None:
        check_publication(publish_to, license_file=license_file, insecure=insecure)
    gguf_type = parse(gguf_type)
    require_training_extra()
    from ollama_bridge.config import ModelfileSection
    from ollama_bridge.conversion import convert
    from ollama_bridge.models.reference_values import with_reference_values
    from ollama_bridge.models.resolve import resolve_adapter, resolve_model
    from ollama_bridge.registration import register
    from ollama_bridge.rendering import render

    settings = ModelfileSection.model_validate(recipe_modelfile or {})
    run_dir = (out_dir or home_dir() / "runs" / f"package-{tag_file_name(tag)}").absolute()
    with (
        hold_run(run_dir),
        JSONLReporter(run_dir / EVENTS_NAME) as events,
        Client(host) as client,
    ):
        tee = TeeReporter(events, reporter or NullReporter())
        if any(text and text.startswith("ollama:") for text in (checkpoint, base)):
            ensure_daemon(reporter=tee, host=host)
        # A bad checkpoint is told before a daemon is started for it.
        models_dir = home_dir() / "models"
        parts = None
        if adapter:
            parts = resolve_adapter(
                checkpoint, cache_dir=models_dir, base=base, client=client, reporter=tee
            )
        plain = resolve_model(
            checkpoint, cache_dir=models_dir, base=base, client=client, reporter=tee
        )
        system, labels = _trained_with(plain, system, tee)
        # A file whose types are chosen one by one records its own noise.
        noise_types = noise_types_of(gguf_type) if target is None else ()
        source = with_reference_values(
            plain,
            system=system,
            labels=labels,
            out_dir=run_dir / "checkpoint",
            noise_types=noise_types,
            reporter=tee,
        )
        lora = None
        if parts is not None:
            ensure_daemon(reporter=tee, host=host)  # its version decides
            source, lora = _apart(*parts, source, run_dir, client, tee)

        if renderer and lora is None and settings.template == "auto":
            built_in = _find_renderer(source, client, tee, host=host)
            if built_in is not None:
                source = with_reference_values(
                    plain,
                    system=system,
                    labels=labels,
                    renderer=built_in,
                    out_dir=run_dir / "checkpoint-renderer",
                    noise_types=noise_types,
                    reporter=tee,
                )
        gguf = convert(
            source,
            type=gguf_type,
            imatrix=imatrix,
            target=target,
            corpus=corpus,
            out_dir=run_dir / (f"gguf-{gguf_type}" if target is None else "gguf-budget"),
            reporter=tee,
        )
        ensure_daemon(reporter=tee, host=host)
        model = register(
            gguf,
            render(gguf, settings=settings, system=system),
            tag,
            client=client,
            out_dir=run_dir / "tag",
            adapter=lora,
            reporter=tee,
            force=force,
            link=link,
        )
        if publish_to is not None and model.facts["forced"]:
            tee.emit(Note("publish", "warning", f"{model.tag} is not published: {_UNPROVEN}"))
        elif publish_to is not None:
            publish(
                model.tag,
                publish_to,
                run_dir=run_dir,
                license_file=license_file,
                insecure=insecure,
                host=host,
                reporter=tee,
            )
        return model


def _trained_with(
    checkpoint: Checkpoint, asked: str | None, reporter: Reporter
) -> tuple[str | None, tuple[str, ...]]:
    """SYSTEM of the tag, and the labels to score: of what was trained here, those of its task."""
    if not checkpoint.reference_path.is_file():
        return asked, ()
    values = ReferenceValues.read(checkpoint.reference_path)
    if asked is not None or values.system == values.default_system:
        return asked, values.labels
    said = "the tag has the system prompt that the checkpoint was trained with (else: --system)"
    reporter.emit(Note("package", "info", said))
    return values.system, values.labels


def _find_renderer(
    checkpoint: Checkpoint, client: Client, reporter: Reporter, *, host: str | None
) -> Renderer | None:
    """Code of Ollama's own that renders what a Go template cannot, if there is such a thing."""
    from ollama_bridge.models.load import load_tokenizer
    from ollama_bridge.models.reference_texts import chat_template_of
    from ollama_bridge.verify.renderers import find_renderer

    served = ReferenceValues.read(checkpoint.reference_path).template
    template = chat_template_of(load_tokenizer(checkpoint.path)) if served is not None else None
    if template is None or served is None:
        return None
    lost = lost_by(template, served.capabilities)
    if served.go is not None and not lost:
        return None
    ensure_daemon(reporter=reporter, host=host)
    found = find_renderer(client, template)
    what = "prompts" if served.go is None else " and ".join(lost)
    said = f"RENDERER {found.name}" if found is not None else "none of Ollama's own renderers"
    reporter.emit(
        Note("package", "info", f"Go cannot write the {what} of the chat template; {said} does")
    )
    return found


def _apart(
    adapter: Path,
    base: Checkpoint,
    adapted: Checkpoint,
    run_dir: Path,
    client: Client,
    reporter: Reporter,
) -> tuple[Checkpoint, AdapterFile | None]:
    """Base and adapter for two files; or the adapted model as it is, where a daemon takes one."""
    from ollama_bridge.conversion import convert_adapter
    from ollama_bridge.models.merge import base_with_values

    version = client.version()
    if has_limit(version, NO_ADAPTER):
        said = f"Ollama {version} takes no LoRA adapter: {NO_ADAPTER.instead}"
        reporter.emit(Note("package", "warning", said))
        return adapted, None
    lora = convert_adapter(adapter, base, out_dir=run_dir / "adapter", reporter=reporter)
    return base_with_values(base, adapted, out_dir=run_dir / "base"), lora


def verify(
    tag: str,
    *,
    against: str | None = None,
    base: str | None = None,
    out_dir: Path | None = None,
    host: str | None = None,
    reporter: Reporter | None = None,
) -> Certificate:
    """Check that a tag which is already in Ollama serves what was trained.

    Args:
        tag: A tag of the daemon; it may have been made by anybody.
        against: Model reference of the checkpoint that the tag is said to be; None: the values
            that our tags carry, which takes neither torch nor the checkpoint.
        base: Of a PEFT adapter in ``against``: reference of the model that it was trained on; None:
            the one that it names.
        out_dir: Folder for what is computed of ``against``; None: ``runs/verify-TAG`` in our home
            folder.
        host: Address of the daemon; None: ``OLLAMA_HOST``, else the default port.
        reporter: Hears of progress.

    Returns:
        The certificate; ask it whether it passed.

    Raises:
        OllamaBridgeError: what went wrong and what to do.
    """
    check_tag(tag)
    if base is not None and against is None:
        raise ConfigError(
            "--base is that of an adapter, and none was given",
            hint=f"ollama-bridge verify {tag} --against ADAPTER --base {base}",
        )
    reporter = reporter or NullReporter()
    with Client(host) as client:
        if against is None:
            return verify_tag(tag, client=client, reporter=reporter)
        require_training_extra()
        from ollama_bridge.models.reference_values import with_reference_values
        from ollama_bridge.models.resolve import resolve_model

        run_dir = (out_dir or home_dir() / "runs" / f"verify-{tag_file_name(tag)}").absolute()
        details = client.show(tag, verbose=True)
        system = details.system or None
        source = resolve_model(
            against,
            cache_dir=home_dir() / "models",
            base=base,
            client=client,
            reporter=reporter,
        )
        with hold_run(run_dir):
            checkpoint = with_reference_values(
                source,
                system=system,
                out_dir=run_dir / "checkpoint",
                noise_types=noise_types_of(type_of(tag, details)),
                reporter=reporter,
            )
            return verify_tag(tag, client=client, against=checkpoint, reporter=reporter)


def read_template(
    checkpoint: str, *, host: str | None = None, reporter: Reporter | None = None
) -> Served:
    """How a tag of a checkpoint will render its prompts: the Go template, and its proof.

    Args:
        checkpoint: A model reference, or a file with a chat template (``.jinja``).
        host: Address of the daemon that an ``ollama:`` reference lies in.
        reporter: Hears of progress.

    Raises:
        TemplateError: the chat template is no Jinja.
        ModelError: there is no chat template, or it does not end.
        OllamaBridgeError: the checkpoint cannot be read.
    """
    from ollama_bridge.models.template_trial import check_chat_template

    file = Path(checkpoint)
    if file.suffix == ".jinja":
        try:
            source = file.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as exc:
            raise ModelError(f"{file} cannot be read: {exc}") from exc
        check_chat_template(source, where=str(file))
        return decide(ChatTemplate(source, special={}, adds_bos=False))
    require_training_extra()
    from ollama_bridge.models.load import load_tokenizer
    from ollama_bridge.models.reference_texts import chat_template_of
    from ollama_bridge.models.resolve import resolve_model

    with Client(host) as client:
        source_folder = resolve_model(
            checkpoint, cache_dir=home_dir() / "models", client=client, reporter=reporter
        )
    template = chat_template_of(load_tokenizer(source_folder.path))
    if template is None:
        raise ModelError(
            f"{checkpoint} has no chat template: its tags continue a prompt as it is",
            hint="put a chat_template.jinja into its folder",
        )
    return decide(template)
