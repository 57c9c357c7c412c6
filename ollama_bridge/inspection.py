"""What is there already: which prompts a checkpoint's tags will have, and what a tag serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote

from ollama_bridge.assets import home_dir
from ollama_bridge.client import Client
from ollama_bridge.errors import ConfigError, ModelError
from ollama_bridge.extras import require_training_extra
from ollama_bridge.modelfile import check_tag
from ollama_bridge.reference import noise_types_of
from ollama_bridge.renderer_choice import renderer_of
from ollama_bridge.reporting import NullReporter, Reporter
from ollama_bridge.run_folder import hold_run, tag_file_name
from ollama_bridge.template.authority import Served, decide
from ollama_bridge.template.jinja import ChatTemplate
from ollama_bridge.verification import type_of, verify_tag
from ollama_bridge.verify.certificate import Certificate


def verify(
    tag: str,
    *,
    against: str | None = None,
    base: str | None = None,
    chat_template: Path | None = None,
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
        chat_template: A file with the chat template, in Jinja, that the tag was made with in place
            of that of ``against``.
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
            "--base needs an adapter, and none was given",
            hint=f"ollama-bridge verify {tag} --against ADAPTER --base {quote(base)}",
        )
    if chat_template is not None and against is None:
        raise ConfigError(
            "--chat-template needs a checkpoint, and none was given",
            hint=f"ollama-bridge verify {tag} --against FOLDER --chat-template "
            f"{quote(str(chat_template))}",
        )
    reporter = reporter or NullReporter()
    with Client(host) as client:
        if against is None:
            return verify_tag(tag, client=client, reporter=reporter)
        require_training_extra()
        from ollama_bridge.models.reference.values import with_reference_values
        from ollama_bridge.models.sources.resolve import resolve_model

        run_dir = (out_dir or home_dir() / "runs" / f"verify-{tag_file_name(tag)}").absolute()
        details = client.show(tag, verbose=True)
        system = details.system or None
        source = resolve_model(
            against,
            cache_dir=home_dir() / "models",
            base=base,
            chat_template=chat_template,
            client=client,
            reporter=reporter,
        )
        with hold_run(run_dir):
            checkpoint = with_reference_values(
                source,
                system=system,
                out_dir=run_dir / "checkpoint",
                renderer=renderer_of(details),
                noise_types=noise_types_of(type_of(tag, details)),
                reporter=reporter,
            )
            return verify_tag(tag, client=client, against=checkpoint, reporter=reporter)


def read_template(
    checkpoint: str,
    *,
    chat_template: Path | None = None,
    host: str | None = None,
    reporter: Reporter | None = None,
) -> Served:
    """How a tag of a checkpoint will render its prompts: the Go template, and its proof.

    In a file by itself the special tokens that it names have stand-ins, which is one of the
    differences.

    Args:
        checkpoint: A model reference, or a file with a chat template (``.jinja``).
        chat_template: Such a file, in place of the checkpoint's own, with its tokens.
        host: Address of the daemon that an ``ollama:`` reference lies in.
        reporter: Hears of progress.

    Raises:
        ConfigError: two chat templates, and no checkpoint.
        TemplateError: the chat template is no Jinja.
        ModelError: there is no chat template, or it does not end.
        OllamaBridgeError: the checkpoint cannot be read.
    """
    from ollama_bridge.models.sources.given_template import read_chat_template

    file = Path(checkpoint)
    if file.suffix == ".jinja":
        if chat_template is not None:
            raise ConfigError(
                f"{file} is a chat template, not a checkpoint",
                hint=f"ollama-bridge template {quote(str(chat_template))}",
            )
        return _without_tokens(read_chat_template(file), file)
    require_training_extra()
    from ollama_bridge.models.load import load_tokenizer
    from ollama_bridge.models.settings.chat_template import chat_template_of
    from ollama_bridge.models.sources.resolve import resolve_model

    with Client(host) as client:
        source = resolve_model(
            checkpoint,
            cache_dir=home_dir() / "models",
            chat_template=chat_template,
            client=client,
            reporter=reporter,
        )
    template = chat_template_of(load_tokenizer(source.path))
    if template is None:
        raise ModelError(
            f"{checkpoint} has no chat template: its tags continue a prompt as it is",
            hint="give it one: --chat-template FILE.jinja (also package, convert, verify)",
        )
    return decide(template)


def _without_tokens(source: str, file: Path) -> Served:
    """The decision for a chat template whose special tokens are not known."""
    names = ChatTemplate(source, special={}, adds_bos=False).unknown_tokens()
    # Not <name>: at the end of a prompt that would be taken for a tag.
    stand_ins = {name: f"<|{name}|>" for name in names}
    served = decide(ChatTemplate(source, special=stand_ins, adds_bos=False))
    if not names:
        return served
    beside = (file.parent / "tokenizer_config.json").exists()
    checkpoint = quote(str(file.parent)) if beside else "CHECKPOINT"
    said = (
        f"{', '.join(stand_ins.values())} in place of the tokenizer's own tokens, which no chat "
        f"template holds: ollama-bridge template {checkpoint} --chat-template {quote(str(file))}"
    )
    return replace(served, differences=(said, *served.differences))
