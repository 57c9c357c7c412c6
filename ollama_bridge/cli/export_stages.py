"""The stages from a checkpoint to a tag, each from files to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ollama_bridge.cli import options, output
from ollama_bridge.cli.budget import print_budget, read_target
from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.cli.stages import CorpusOption, StageOut, checkpoint_of, print_artifact
from ollama_bridge.errors import ConfigError
from ollama_bridge.quantization.file_types import parse
from ollama_bridge.storage.artifacts import Corpus, GGUFFile

_TYPE = "f16"
_TEMPLATE_HIDDEN = (
    "the file is for `register`, which gives a tag its TEMPLATE: other runtimes find no chat "
    "template in it (for llama.cpp, LM Studio or vLLM: --standalone)"
)


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (importance, convert, render, register):
        app.command(command.__name__)(command)


def importance(
    source: options.SourceArgument,
    corpus: CorpusOption,
    out: StageOut,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Use at most this many tokens of the corpus.")
    ] = 50_000,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Measure which columns of its matrices a model uses, for `convert --imatrix`.

    Examples:
      ollama-bridge importance ./student --corpus ./corpus --out ./importance
    """
    from ollama_bridge.conversion.importance import importance as stage

    with ConsoleReporter() as reporter:
        found = stage(
            checkpoint_of(source, host, reporter),
            Corpus.open(corpus),
            max_tokens=max_tokens,
            out_dir=out.absolute(),
            reporter=reporter,
        )
    print_artifact(found, str(found.imatrix_path), as_json=as_json)


def convert(
    source: options.SourceArgument,
    out: StageOut,
    gguf_type: Annotated[str | None, options.type_option(_TYPE)] = None,
    budget: options.BudgetOption = None,
    max_size: options.MaxSizeOption = None,
    corpus: options.BudgetCorpusOption = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Write only the adapter of a PEFT folder, in F32.")
    ] = False,
    base: options.BaseOption = None,
    chat_template: options.ChatTemplateOption = None,
    imatrix: options.ImatrixOption = None,
    standalone: Annotated[
        bool | None,
        typer.Option(
            "--standalone/--no-standalone",
            help="Write the chat template where llama.cpp, LM Studio and vLLM look for it. "
            "Default: yes; but of what was trained or packaged here only if no Go TEMPLATE can be "
            "made of it.",
        ),
    ] = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Write a checkpoint as GGUF; a PEFT folder is merged into its base.

    Examples:
      ollama-bridge convert ./my-finetune --type q4_k_m --out ./gguf
      ollama-bridge convert ./my-finetune --budget 0.01 --corpus ./corpus --out ./gguf
      ollama-bridge convert ./my-finetune --max-size 80MB --out ./gguf
      ollama-bridge convert ./student --type q8_0 --out ./gguf
    """
    from ollama_bridge.conversion import convert as stage

    target = read_target(budget, max_size, corpus, gguf_type=gguf_type)
    if adapter and target is not None:
        raise ConfigError("an adapter is always written in F32: leave out --budget and --max-size")
    if adapter and (imatrix is not None or (gguf_type or "f32").lower() != "f32"):
        given = "--imatrix" if imatrix is not None else f"--type {gguf_type}"
        raise ConfigError(
            f"an adapter is always written in F32: {given} does not apply",
            hint=f"leave out {given}; or leave out --adapter, to merge the adapter into its base",
        )
    if adapter and (chat_template is not None or standalone is not None):
        raise ConfigError(
            "an adapter has no chat template: leave out --chat-template and --standalone"
        )
    if adapter:
        _convert_adapter(source, out, base=base, host=host, as_json=as_json)
        return
    gguf_type = parse(gguf_type or _TYPE)  # before anything is fetched
    with ConsoleReporter() as reporter:
        gguf = stage(
            checkpoint_of(source, host, reporter, base=base, chat_template=chat_template),
            type=gguf_type,
            chat_template=standalone,
            imatrix=imatrix,
            target=target,
            corpus=Corpus.open(corpus) if corpus is not None else None,
            out_dir=out.absolute(),
            reporter=reporter,
        )
    if standalone is None and _hides_template(gguf):
        output.say(_TEMPLATE_HIDDEN)
    if target is not None and not as_json:
        print_budget(gguf)
    print_artifact(gguf, as_json=as_json)


def render(
    gguf: Annotated[Path, typer.Argument(help="Folder that `convert` made.")],
    recipe: Annotated[str | None, typer.Option(help="Recipe with the parameters.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat format or .j2 file.")] = None,
    system: Annotated[str | None, typer.Option(help="SYSTEM of the Modelfile.")] = None,
    as_json: options.JSONOption = False,
) -> None:
    """Print the Modelfile of a GGUF.

    Examples:
      ollama-bridge render ./gguf --recipe sentiment > Modelfile
    """
    from ollama_bridge.recipe.config import ModelfileSection
    from ollama_bridge.recipe.loading import load_recipe
    from ollama_bridge.rendering import render as stage

    settings = ModelfileSection()
    if recipe is not None:
        loaded = load_recipe(recipe)
        settings, system = loaded.modelfile, system or loaded.task.system
    if template is not None:
        settings = settings.model_copy(update={"template": template})
    text = stage(GGUFFile.open(gguf), settings=settings, system=system).to_text()
    output.either(text, {"modelfile": text}, as_json=as_json)


def register(
    gguf: Annotated[Path, typer.Argument(help="Folder that `convert` made.")],
    tag: Annotated[str, typer.Argument(help="The tag in Ollama.")],
    out: StageOut,
    modelfile: Annotated[
        Path | None, typer.Option(help="Modelfile of the tag. Default: rendered from the GGUF.")
    ] = None,
    force: options.ForceOption = False,
    link: options.LinkOption = True,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Register a GGUF in Ollama and prove what is served.

    Examples:
      ollama-bridge register ./gguf my-model --modelfile Modelfile --out ./registered
    """
    from ollama_bridge.cli.creating import read_modelfile, warn_of_dropped
    from ollama_bridge.client import Client
    from ollama_bridge.daemon.ensure import ensure_daemon
    from ollama_bridge.modelfile import Modelfile
    from ollama_bridge.recipe.config import ModelfileSection
    from ollama_bridge.registration import register as stage
    from ollama_bridge.rendering import render as render_stage

    opened = GGUFFile.open(gguf)
    if modelfile is None:
        parsed = render_stage(opened, settings=ModelfileSection(), system=None)
    else:
        text = read_modelfile(modelfile, hint="ollama-bridge render --help")
        parsed = Modelfile.parse(text)
        warn_of_dropped(text)
    with ConsoleReporter() as reporter:
        daemon = ensure_daemon(reporter=reporter, host=host)
        with Client(daemon.host) as client:
            model = stage(
                opened,
                parsed,
                tag,
                client=client,
                out_dir=out.absolute(),
                reporter=reporter,
                force=force,
                link=link,
            )
    print_artifact(model, f"{model.tag}: {model.facts['verdict']}", as_json=as_json)


def _hides_template(gguf: GGUFFile) -> bool:
    """Whether the checkpoint has a chat template, and no other runtime would find it."""
    from ollama_bridge.reference import ReferenceValues

    if gguf.facts["chat_template"] or not gguf.reference_path.is_file():
        return False
    return ReferenceValues.read(gguf.reference_path).has_chat_template


def _convert_adapter(
    source: str, out: Path, *, base: str | None, host: str | None, as_json: bool
) -> None:
    from ollama_bridge.assets import home_dir
    from ollama_bridge.client import Client
    from ollama_bridge.conversion import convert_adapter
    from ollama_bridge.models.sources.resolve import resolve_adapter

    with ConsoleReporter() as reporter, Client(host) as client:
        folder, found = resolve_adapter(
            source, cache_dir=home_dir() / "models", base=base, client=client, reporter=reporter
        )
        made = convert_adapter(folder, found, out_dir=out.absolute(), reporter=reporter)
    print_artifact(made, as_json=as_json)
