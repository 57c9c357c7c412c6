"""``package``, ``template``, ``verify``, ``ls`` and ``show``: models in Ollama."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from shlex import quote
from typing import Annotated

import typer

from ollama_bridge.cli import completion, options, output
from ollama_bridge.cli.budget import read_target
from ollama_bridge.cli.progress import ConsoleReporter
from ollama_bridge.cli.question_options import ParameterOption, read_options
from ollama_bridge.errors import ConfigError, ParityError
from ollama_bridge.storage.artifacts import Corpus

_TYPE = "q8_0"
AdapterOption = Annotated[
    bool,
    typer.Option(
        "--adapter",
        help="Serve a PEFT adapter as ADAPTER on its base, if this Ollama can, instead of "
        "merging it.",
    ),
]
RendererOption = Annotated[
    bool,
    typer.Option(
        help="If a Go template would lose tools, calls or thinking, use a built-in RENDERER or "
        "PARSER of Ollama, or its own Jinja, that is seen to be right."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (package, template, verify, ls, show):
        app.command(command.__name__)(command)


def package(
    checkpoint: options.SourceArgument,
    tag: Annotated[str, typer.Argument(help="Name of the tag in Ollama.")],
    gguf_type: Annotated[str | None, options.type_option(_TYPE)] = None,
    budget: options.BudgetOption = None,
    max_size: options.MaxSizeOption = None,
    corpus: options.BudgetCorpusOption = None,
    base: options.BaseOption = None,
    chat_template: options.ChatTemplateOption = None,
    adapter: AdapterOption = False,
    imatrix: options.ImatrixOption = None,
    system: Annotated[str | None, typer.Option(help="SYSTEM of the tag.")] = None,
    template: Annotated[str, typer.Option(help="Chat format, .j2 file, or auto.")] = "auto",
    renderer: RendererOption = True,
    parameter: ParameterOption = None,
    force: options.ForceOption = False,
    link: options.LinkOption = True,
    publish: Annotated[
        str | None,
        typer.Option(help="Once it is proven, publish it as REGISTRY/NAMESPACE/NAME:TAG."),
    ] = None,
    license_: options.LicenseOption = None,
    insecure: options.InsecureOption = False,
    out: options.OutOption = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Convert a checkpoint, register it, and prove that the daemon serves it.

    Examples:
      ollama-bridge package ./my-finetune my-model --type q8_0
      ollama-bridge package ./my-finetune my-model --system "Answer in one word." --type f16
      ollama-bridge package ./my-adapter my-model --base ./unquantized-base
      ollama-bridge package ./my-finetune my-model --max-size 80MB --corpus ./corpus
      ollama-bridge package ./my-finetune my-model --publish ghcr.io/team/my-model:1
    """
    from ollama_bridge.packaging import package as packaging

    target = read_target(budget, max_size, corpus, gguf_type=gguf_type)
    with ConsoleReporter(quiet=quiet) as reporter:
        model = packaging.package(
            checkpoint,
            tag,
            recipe_modelfile={"template": template, "parameters": read_options(parameter)},
            system=system,
            gguf_type=gguf_type or _TYPE,
            target=target,
            base=base,
            chat_template=chat_template,
            adapter=adapter,
            corpus=Corpus.open(corpus) if corpus is not None else None,
            imatrix=imatrix,
            renderer=renderer,
            force=force,
            link=link,
            publish_to=publish,
            license_file=license_,
            insecure=insecure,
            out_dir=out,
            host=host,
            reporter=reporter,
        )
    published = None if model.facts["forced"] else publish
    if as_json:
        facts = {"tag": model.tag, "path": model.path, **model.facts}
        output.data_json({**facts, "published": published})
        return
    output.data(f"{model.tag}: {model.facts['verdict']}")
    if published:
        output.data(f"{published}: published")


def template(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Model reference, usually a folder; or a .jinja file.",
            autocompletion=completion.references,
        ),
    ],
    chat_template: options.ChatTemplateOption = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Show how a tag of a checkpoint will render its prompts, and how that was proven.

    The Go template goes to stdout; what was proven, and what differs, to stderr.

    Examples:
      ollama-bridge template ./my-finetune
      ollama-bridge template ./my-finetune/chat_template.jinja --json
    """
    from ollama_bridge import inspection

    with ConsoleReporter(quiet=quiet) as reporter:
        served = inspection.read_template(
            checkpoint, chat_template=chat_template, host=host, reporter=reporter
        )
    if as_json:
        output.data_json(asdict(served))
        return
    if served.go is not None:
        output.data(served.go)
    tools = "tools" if served.reads_calls else "tools (calls as part of the answer)"
    offered = [tools] if served.tools else []
    if served.thinking:
        offered.append("thinking" if served.splits_thinking else "thinking (as part of the answer)")
    output.say(f"{served.reason}; offers {' and '.join(offered) or 'neither tools nor thinking'}")
    for difference in served.differences:
        output.say(f"- {difference}")


def verify(
    tag: options.TagArgument,
    against: Annotated[
        str | None,
        typer.Option(
            help="Model (reference) that the tag should be. Default: what the tag carries.",
            autocompletion=completion.references,
        ),
    ] = None,
    base: options.BaseOption = None,
    chat_template: options.ChatTemplateOption = None,
    out: options.OutOption = None,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
    quiet: options.QuietOption = False,
) -> None:
    """Check that a tag serves what was trained; the exit code is 5 if it does not.

    Examples:
      ollama-bridge verify review-sentiment
      ollama-bridge verify my-model --against ./my-finetune
      ollama-bridge verify my-model --against ./my-adapter --base ./unquantized-base
    """
    from ollama_bridge import inspection
    from ollama_bridge.verify.certificate import METADATA

    with ConsoleReporter(quiet=quiet) as reporter:
        certificate = inspection.verify(
            tag,
            against=against,
            base=base,
            chat_template=chat_template,
            out_dir=out,
            host=host,
            reporter=reporter,
        )
    if as_json:
        output.data(certificate.to_json())
        raise typer.Exit(0 if certificate.passed else ParityError.exit_code)
    rows = [
        {
            "CHECK": check.name,
            "RESULT": "ok" if check.passed else f"FAILED ({check.layer})",
            "NUMBERS": _in_words(check.numbers),
        }
        for check in certificate.checks
    ]
    output.table(rows)
    output.data(f"{tag}: {certificate.verdict}")
    first = certificate.first_failure
    for check in certificate.checks:
        if not check.passed and check is not first:
            output.data(f"also {check.layer}: {check.name}: {check.difference}")
    if against is None and not quiet and (first is None or first.layer in ("tokenizer", "tensor")):
        carries_numbers = any(check.name == METADATA for check in certificate.checks)
        numbers = "" if carries_numbers else "numbers that only long texts show, "
        output.say(
            f"not compared without the checkpoint: tokens that no probe has, {numbers}each tensor "
            f"by itself: ollama-bridge verify {tag} --against CHECKPOINT"
        )
    certificate.raise_if_failed()


def _in_words(numbers: Mapping[str, float | int | str]) -> str:
    """What was counted and measured, each with the bound that it was held against."""
    said = []
    for name, value in numbers.items():
        if name.endswith("_bound"):
            continue
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        bound = numbers.get(f"{name.removesuffix('_nats')}_bound")
        shown += f" (bound {bound:.3g})" if isinstance(bound, float) else ""
        said.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(said)


def ls(
    prefix: options.PrefixArgument = "",
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """List the models in Ollama.

    Examples:
      ollama-bridge ls
      ollama-bridge ls review
      ollama-bridge ls --json
    """
    from ollama_bridge.client import Client

    with Client(host) as client:
        models = [one for one in client.list() if options.begins_with(one.name, prefix)]
    rows = [
        {
            "NAME": model.name,
            "ID": model.digest.removeprefix("sha256:")[:12],
            "SIZE": output.size(model.size_bytes),
            "MODIFIED": model.modified_at[:19],
        }
        for model in models
    ]
    output.listing([asdict(model) for model in models], rows, as_json=as_json)


def show(
    tag: options.TagArgument,
    modelfile: Annotated[
        bool, typer.Option("--modelfile", help="Print only the Modelfile.")
    ] = False,
    parameters: Annotated[
        bool, typer.Option("--parameters", help="Print only the parameters.")
    ] = False,
    system: Annotated[bool, typer.Option("--system", help="Print only the system prompt.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Print only the template.")] = False,
    license_: Annotated[bool, typer.Option("--license", help="Print only the licence.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also print the metadata of the model's file.")
    ] = False,
    host: options.HostOption = None,
    as_json: options.JSONOption = False,
) -> None:
    """Show what Ollama knows of a tag.

    Examples:
      ollama-bridge show review-sentiment
      ollama-bridge show review-sentiment --modelfile > Modelfile
    """
    from ollama_bridge.cli.facts import model_facts
    from ollama_bridge.client import Client

    wanted = {
        "modelfile": modelfile,
        "parameters": parameters,
        "system": system,
        "template": template,
        "license": license_,
    }
    if sum(wanted.values()) > 1:
        raise ConfigError(
            "use only one of --" + ", --".join(name for name, one in wanted.items() if one),
            hint=f"for all of them: ollama-bridge show {quote(tag)} --json",
        )
    with Client(host) as client:
        details = client.show(tag, verbose=verbose)
    for name in (name for name, one in wanted.items() if one):
        text = str(details.raw.get(name) or "")
        output.either(text, {name: text}, as_json=as_json)
        return
    if as_json:
        output.data_json(dict(details.raw))
        return
    output.fields(
        {
            **model_facts(details),
            "system": details.system or "(none)",
            "parameters": " | ".join(
                " ".join(line.split()) for line in details.parameters.splitlines()
            ),
        },
        as_json=False,
    )
    output.data("")
    if verbose:
        width = max(map(len, details.model_info), default=0)
        for name, value in details.model_info.items():
            output.data(f"{name:<{width}}  {_shortened(value)}")
        output.data("")
    output.data(details.modelfile)


def _shortened(value: object) -> str:
    """A value in a line; of a vocabulary, how long it is."""
    if isinstance(value, list):
        return f"{', '.join(map(str, value[:3]))}{f', ... ({len(value)})' if value[3:] else ''}"
    return str(value)
