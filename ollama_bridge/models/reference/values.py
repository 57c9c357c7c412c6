"""Computes ``reference.json``: what a checkpoint renders, tokenizes and answers, in float32.

The format is ``ollama_bridge.reference``; ``verify`` compares a daemon with it. The probes are
synthetic. A 135M checkpoint takes seconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ollama_bridge.digests import JSONValue, canonical_json, digest_text
from ollama_bridge.errors import ArtifactError, ConversionError
from ollama_bridge.models.architectures import ARCHITECTURES, Architecture
from ollama_bridge.models.architectures.layout import OUTPUT
from ollama_bridge.models.compute.memory import check_room
from ollama_bridge.models.gguf.pretokenizers import by_structure
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.probes import QUESTIONS
from ollama_bridge.models.reference.earlier_answers import Guesses, earlier_answers
from ollama_bridge.models.reference.scorer import GREEDY_TOKENS, Scorer
from ollama_bridge.models.reference.texts import TextSide, turns_of
from ollama_bridge.models.safety import read_architecture, read_config
from ollama_bridge.models.settings.generation_defaults import SAMPLING, read_generation_config
from ollama_bridge.models.settings.hf_config import keys_named
from ollama_bridge.models.settings.json_files import read_json_object
from ollama_bridge.models.sources.links import link_file, linked_digests
from ollama_bridge.models.sources.origin import VALUES_KEY, facts_of_copy, owners_folder
from ollama_bridge.quantization.mixes import ModelShape, TypePlan, plan_types
from ollama_bridge.reference import (
    NOISE_TYPES,
    SERVED_CONTEXT,
    Answer,
    Conversation,
    Position,
    ReferenceValues,
    Special,
)
from ollama_bridge.reporting import Note, NullReporter, Progress, Reporter, Timed
from ollama_bridge.storage.artifacts import Checkpoint, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.template.authority import OllamasOwn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STAGE = "reference"
_VERSION = 20  # raised when other values are computed
_SCORED_POSITIONS = 24
# A daemon in F16 may prefer the other of two tokens whose log-probabilities are this close: each
# may be off by 0.05, and twice that is left for the words before.
_NEAR_TIE = 0.2
_LARGER_MACHINE = (
    "stop what holds memory (ollama-bridge ps), or do it on a larger machine: ollama-bridge "
    "publish there, ollama-bridge pull here, which proves the tag without the checkpoint"
)


def write_reference_values(
    folder: Path,
    *,
    system: str | None,
    labels: tuple[str, ...] = (),
    renderer: OllamasOwn | None = None,
    noise_types: Sequence[str] = NOISE_TYPES,
    model: PreTrainedModel | None = None,
    guesses: Guesses | None = None,
    reporter: Reporter | None = None,
) -> dict[str, str]:
    """Write ``folder/reference.json``.

    Args:
        system: SYSTEM that the tag will have; None: the chat template's default, if any.
        labels: Answers of a classification; each is scored, beside the model's own answer.
        renderer: What serves in place of Go, or beside it; None: whoever ``template`` decides on.
        noise_types: Of ``reference.NOISE_TYPES``, those whose noise is estimated.
        model: What was saved in the folder, where it is in memory, float32 and on the CPU; None:
            it is loaded.
        guesses: At answers, by the tokens of their prompts: right ones save time.

    Returns:
        A fact for the folder's manifest, by which :func:`with_reference_values` knows them again.

    Raises:
        ModelError: the checkpoint cannot be loaded, memory is short, or its chat template fails.
    """
    values = _compute(
        folder,
        system=system,
        labels=labels,
        renderer=renderer,
        noise_types=noise_types,
        model=model,
        guesses=guesses or {},
        reporter=reporter or NullReporter(),
    )
    values.write(folder / "reference.json")
    return {VALUES_KEY: _key_of(_settings(system, labels, renderer, noise_types))}


def with_reference_values(
    checkpoint: Checkpoint,
    *,
    system: str | None,
    labels: tuple[str, ...] = (),
    out_dir: Path,
    renderer: OllamasOwn | None = None,
    noise_types: Sequence[str] = NOISE_TYPES,
    reporter: Reporter | None = None,
) -> Checkpoint:
    """The same weights with reference values as they are computed now (files are linked).

    What was trained keeps those that it was made with: they are in the digest that labels, students
    and scores begin with. It is returned as it is where it has these very values, and maybe the
    noise of more types.

    Args:
        system: SYSTEM of the tag; None: the chat template's default, if any.
        labels: Answers of a classification; each is scored, beside the model's own answer.
        renderer: What serves in place of Go, or beside it; None: whoever ``template`` decides on.
        noise_types: Of ``reference.NOISE_TYPES``, those whose noise is estimated; each rounds every
            weight anew.

    Raises:
        ModelError: the checkpoint cannot be loaded, memory is short, or its chat template fails.
        ConversionError: no GGUF can say how it computes.
    """
    reporter = reporter or NullReporter()
    settings = _settings(system, labels, renderer, noise_types)
    if _has(checkpoint, settings, noise_types):
        return checkpoint
    work = Work(
        kind=Checkpoint.kind,
        stage=_STAGE,
        version=_VERSION,
        inputs={"checkpoint": checkpoint.digest},
        settings=settings,
    )
    with Timed(reporter, _STAGE) as timer, open_draft(out_dir, work, in_place=True) as draft:
        folder = draft.path if draft.finished is None else out_dir
        for name in checkpoint.manifest.files:
            if name != "reference.json":
                link_file(checkpoint.path / name, folder / name)
        if draft.finished is not None:
            timer.reuse(out_dir)
            return Checkpoint(out_dir, draft.finished)
        with keys_named(owners_folder(checkpoint.path)):
            key = write_reference_values(
                draft.path,
                system=system,
                labels=labels,
                renderer=renderer,
                noise_types=noise_types,
                guesses=earlier_answers(checkpoint, out_dir, stage=_STAGE),
                reporter=reporter,
            )
        digests = linked_digests(checkpoint, draft.path)
        manifest = draft.commit({**facts_of_copy(checkpoint), **key}, digests=digests)
        timer.finish(out_dir, manifest.facts)
        return Checkpoint(out_dir, manifest)


def _has(
    checkpoint: Checkpoint, settings: dict[str, JSONValue], noise_types: Sequence[str]
) -> bool:
    """Whether its values were computed by these settings, with the noise of these types or more."""
    if not checkpoint.reference_path.is_file():  # a copy with another chat template has none
        return False
    try:
        estimated = list(ReferenceValues.read(checkpoint.reference_path).noise)
    except ArtifactError:  # of another version
        return False
    own = {**settings, "noise": estimated}
    return checkpoint.facts.get(VALUES_KEY) == _key_of(own) and set(noise_types) <= set(estimated)


def _settings(
    system: str | None,
    labels: tuple[str, ...],
    renderer: OllamasOwn | None,
    noise_types: Sequence[str],
) -> dict[str, JSONValue]:
    return {
        "system": system,
        "labels": list(labels),
        "renderer": None if renderer is None else asdict(renderer),
        "noise": list(noise_types),
    }


def _key_of(settings: dict[str, JSONValue]) -> str:
    return digest_text(canonical_json({"version": _VERSION, **settings}))


def _compute(
    folder: Path,
    *,
    system: str | None,
    labels: tuple[str, ...],
    renderer: OllamasOwn | None,
    noise_types: Sequence[str],
    model: PreTrainedModel | None,
    guesses: Guesses,
    reporter: Reporter,
) -> ReferenceValues:
    tokenizer = load_tokenizer(folder)
    text = TextSide(tokenizer, folder, system=system or None, renderer=renderer)
    if text.served is not None:
        reporter.emit(Note(_STAGE, "info", text.served.reason))
    for said in text.warnings():
        reporter.emit(Note(_STAGE, "warning", said))
    config = read_config(folder)
    context = min(int(config.get("max_position_embeddings") or SERVED_CONTEXT), SERVED_CONTEXT)
    probes = text.conversations(longest=context - GREEDY_TOKENS)
    architecture = ARCHITECTURES[read_architecture(folder, config)]
    if model is None:
        architecture.entries(config)  # what no GGUF can say is refused before weights are read
        check_room(
            folder,
            purpose="computing the values that prove a tag",
            hint=_LARGER_MACHINE,
        )
        model = load_model(folder, dtype=torch.float32)
    scorer = Scorer(model, tokenizer)
    reporter.emit(Progress(_STAGE, 0, 3, "passes"))
    tops = scorer.last_tops([ids for _, _, ids in probes.values()])
    conversations = tuple(
        Conversation(
            name=name,
            turns=turns_of(conversation),
            tools=tuple(dict(tool) for tool in conversation.tools),
            think=conversation.think,
            rendered=rendered,
            token_ids=tuple(ids),
            token_texts=tuple(tokenizer.convert_ids_to_tokens(ids)),
            top=top,
        )
        for (name, (conversation, rendered, ids)), top in zip(probes.items(), tops, strict=True)
    )
    reporter.emit(Progress(_STAGE, 1, 3, "passes"))
    generation = read_generation_config(folder)
    end_tokens = text.end_tokens(generation, config)
    answers = _answers(conversations, end_tokens, labels, scorer, guesses)
    without_end = text.without_end(end_tokens)
    if without_end is not None and not any(one.greedy and one.ends for one in answers):
        text.limits.append(without_end)
        reporter.emit(Note(_STAGE, "warning", without_end))
    reporter.emit(Progress(_STAGE, 2, 3, "passes"))
    noise = scorer.noise(_noise_plans(architecture, config, noise_types))
    reporter.emit(Progress(_STAGE, 3, 3, "passes"))
    bos = text.special(tokenizer.bos_token)
    return ReferenceValues(
        system=text.system,
        default_system=text.default_system,
        has_chat_template=text.has_chat_template,
        template=text.served,
        dates=text.dates,
        turn_end=text.turn_end,
        end_tokens=end_tokens,
        special_texts=scorer.special_texts(),
        bos=bos,
        adds_bos=text.adds_bos,
        pre_tokenizer=_pre_tokenizer(folder),
        vocab_size=len(tokenizer),
        context_length=int(model.config.max_position_embeddings),
        unstretched_context=architecture.unstretched_context(config),
        numbers=_numbers(architecture, config),
        generation={name: generation[name] for name in SAMPLING if name in generation},
        limits=tuple(text.limits),
        conversations=conversations,
        answers=answers,
        noise=noise,
    )


def _numbers(architecture: Architecture, config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a GGUF of the checkpoint; that it has none is told when one is made."""
    with contextlib.suppress(ConversionError):
        return {entry.key: entry.value for entry in architecture.entries(config)}
    return {}


def _noise_plans(
    architecture: Architecture, config: Mapping[str, Any], file_types: Sequence[str]
) -> dict[str, TypePlan]:
    """By file type: the type that each weight of the checkpoint would get."""
    dims = architecture.dimensions(config)
    model = ModelShape(architecture.name, dims.layers, dims.heads, dims.kv_heads)
    rules = architecture.rules(config)
    shapes = {rule.target: rule.shape for rule in rules}
    plans: dict[str, TypePlan] = {}
    for name in file_types:
        types = plan_types(name, shapes, model)
        plan = {rule.source: types[rule.target] for rule in rules}
        if architecture.tied(config):
            plan[OUTPUT] = types["token_embd.weight"]
        plans[name] = plan
    return plans


def _pre_tokenizer(folder: Path) -> str | None:
    document = read_json_object(folder / "tokenizer.json")
    model = document.get("model")
    ignores = isinstance(model, dict) and bool(model.get("ignore_merges"))
    entry = by_structure(document.get("pre_tokenizer"), ignore_merges=ignores)
    return entry.name if entry is not None else None


def _answers(
    conversations: Sequence[Conversation],
    end_tokens: Sequence[Special],
    labels: tuple[str, ...],
    scorer: Scorer,
    guesses: Guesses,
) -> tuple[Answer, ...]:
    by_name = {conversation.name: conversation for conversation in conversations}
    questions = [by_name[name] for name in QUESTIONS if name in by_name]
    ends = [token.id for token in end_tokens]
    answers = []
    for conversation in questions:
        guess = _tokens_behind(conversation, guesses.get(conversation.token_ids, ""), scorer)
        ids, ended = scorer.greedy(conversation.token_ids, ends, guess=guess)
        answers.append(_score(conversation, ids, scorer, greedy=True, ends=ended, label=None))
    for conversation in questions[:2]:
        for label in labels:
            ids = scorer.tokenizer(label, add_special_tokens=False).input_ids
            answers.append(_score(conversation, ids, scorer, greedy=False, ends=True, label=label))
    return tuple(answers)


def _tokens_behind(conversation: Conversation, text: str, scorer: Scorer) -> list[int]:
    """Token ids of a text as it is split behind a prompt."""
    prompt, whole = (
        scorer.tokenizer(conversation.rendered + said, add_special_tokens=False).input_ids
        for said in ("", text)
    )
    return list(whole[len(prompt) :])


def _score(
    conversation: Conversation,
    ids: Sequence[int],
    scorer: Scorer,
    *,
    greedy: bool,
    ends: bool,
    label: str | None,
) -> Answer:
    logprobs = scorer.answer_logprobs(conversation.token_ids, ids)
    best = logprobs.topk(2).values
    certain = 0
    for token, margin in zip(ids, (best[:, 0] - best[:, 1]).tolist(), strict=False):
        if margin < _NEAR_TIE or scorer.is_special(token):  # a daemon does not print these
            break
        certain += 1
    certain_text = scorer.decode(ids[:certain]).partition("\ufffd")[0]
    places = list(range(min(len(ids) + 1, _SCORED_POSITIONS)))
    if ends and len(ids) not in places:
        places.append(len(ids))
    positions, compared = [], []
    for place in places:
        prefix = scorer.decode(ids[:place])
        # A daemon gets text: a prefix that would be cut into other tokens cannot be asked.
        again = scorer.tokenizer(conversation.rendered + prefix, add_special_tokens=False).input_ids
        expected = [*conversation.token_ids, *ids[:place]]
        if list(again) == expected[len(expected) - len(again) :] and len(again) >= len(ids[:place]):
            compared.append(place)
            positions.append(
                Position(
                    prefix=prefix, prompt_tokens=len(expected), top=scorer.top(logprobs[place])
                )
            )
    scorer.compare(conversation.token_ids, ids, logprobs, places=compared)
    return Answer(
        name=f"{conversation.name}: {label if label is not None else 'own answer'}",
        conversation=conversation.name,
        text=scorer.decode(ids),
        greedy=greedy,
        ends=ends,
        tokens=len(ids),
        certain_text=certain_text,
        positions=tuple(positions),
    )
