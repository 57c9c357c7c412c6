"""Reference values of a tiny checkpoint, against transformers' own functions."""

from __future__ import annotations

import errno
import json
import os
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.architectures import build_checkpoint
from fakes.endings import answer_and_end
from fakes.formats import source_of
from fakes.json_files import change_json
from fakes.listening import Listener
from fakes.models import CHAT_TEMPLATE, DEFAULT_SYSTEM, build_tiny_model, build_tiny_tokenizer

from ollama_bridge.assets import home_dir
from ollama_bridge.conversion import convert
from ollama_bridge.errors import ConversionError, ModelError
from ollama_bridge.models.compute import memory
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.probes import CONVERSATIONS
from ollama_bridge.models.reference import values as reference_values
from ollama_bridge.models.reference.scorer import Scorer
from ollama_bridge.models.reference.texts import TextSide
from ollama_bridge.models.reference.values import with_reference_values, write_reference_values
from ollama_bridge.models.settings.named_ends import named_ends
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.reference import NOISE_TYPES, ReferenceValues, Special, noise_types_of
from ollama_bridge.reporting import JSONLReporter
from ollama_bridge.storage.artifacts import Checkpoint, Work
from ollama_bridge.storage.drafts import open_draft


def values_of(
    checkpoint: Path, folder: Path, *, system: str | None = None, labels: tuple[str, ...] = ()
) -> ReferenceValues:
    """Reference values of a copy."""
    copy = folder / "copy"
    shutil.copytree(checkpoint, copy)
    write_reference_values(copy, system=system, labels=labels)
    return ReferenceValues.read(copy / "reference.json")


@pytest.fixture(scope="module")
def values(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ReferenceValues:
    """Values with a system prompt of a task and two labels."""
    return values_of(
        tiny_checkpoint,
        tmp_path_factory.mktemp("values"),
        system="Say one word.",
        labels=("positive", "negative"),
    )


@pytest.fixture
def source(tiny_checkpoint: Path, tmp_path: Path) -> Checkpoint:
    """The tiny checkpoint as an artefact, without values."""
    with open_draft(tmp_path / "source", Work("checkpoint", "import", 1)) as draft:
        shutil.copytree(tiny_checkpoint, draft.path, dirs_exist_ok=True)
        return Checkpoint(tmp_path / "source", draft.commit())


def fail_as_across_disks(*_: object) -> None:
    """What a hard link to another file system does."""
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_every_probe_is_rendered_and_tokenized_by_the_template(
    values: ReferenceValues, tiny_checkpoint: Path
) -> None:
    """Text and ids are those of ``apply_chat_template``, with the task's system prompt."""
    tokenizer = load_tokenizer(tiny_checkpoint)
    assert {conversation.name for conversation in values.conversations} == set(CONVERSATIONS)
    for conversation in values.conversations:
        messages = [turn.model_dump() for turn in conversation.turns]
        if messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": "Say one word."})
        continued = messages[-1]["role"] == "assistant"
        ids = tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            return_dict=False,
        )
        assert list(conversation.token_ids) == list(ids)
        assert conversation.rendered.endswith("assistant\n") != continued


def test_log_probabilities_are_those_of_the_weights(
    values: ReferenceValues, tiny_checkpoint: Path
) -> None:
    """The top tokens after a prompt are transformers' own, in float32."""
    model = load_model(tiny_checkpoint)
    for conversation in values.conversations[:3]:
        with torch.inference_mode():
            logits = model(torch.tensor([conversation.token_ids])).logits[0, -1]
        expected = torch.log_softmax(logits, -1)
        assert len(conversation.top) == 20
        for token in conversation.top:
            assert token.logprob == pytest.approx(float(expected[token.id]), abs=1e-4)


def test_rows_that_no_token_uses_are_among_the_likeliest(tmp_path: Path) -> None:
    """An embedding that is padded for speed may hold anything there, and a daemon lists it."""
    folder = tmp_path / "padded"
    build_tiny_model(vocab_size=512, seed=5).save_pretrained(folder)
    build_tiny_tokenizer(vocab_size=384).save_pretrained(folder)
    tops = [conversation.top for conversation in values_of(folder, tmp_path).conversations]
    unused = [token for top in tops for token in top if token.id >= 384]
    assert unused
    assert {token.text for token in unused} == {None}


def test_labels_are_scored_with_their_end(values: ReferenceValues) -> None:
    """Each label is a forced answer whose last place is the one before the end token."""
    forced = [answer for answer in values.answers if not answer.greedy]
    assert {answer.text for answer in forced} == {"positive", "negative"}
    for answer in forced:
        assert answer.ends
        assert answer.positions[-1].prefix == answer.text


def test_greedy_answers_are_those_of_generate(
    values: ReferenceValues, tiny_checkpoint: Path
) -> None:
    """The model's own answers are what ``generate`` gives."""
    model, tokenizer = (
        load_model(tiny_checkpoint, dtype=torch.float32),
        load_tokenizer(tiny_checkpoint),
    )
    answer = next(answer for answer in values.answers if answer.greedy)
    prompt = torch.tensor([values.conversation(answer.conversation).token_ids])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=answer.tokens,
        do_sample=False,
    )
    text = tokenizer.decode(output[0, prompt.shape[1] :], clean_up_tokenization_spaces=False)
    assert text == answer.text


def test_what_is_certain_ends_at_the_first_near_tie(
    values: ReferenceValues, tiny_checkpoint: Path
) -> None:
    """A daemon is held to the text before it: all of that, and nothing behind."""
    model, tokenizer = (
        load_model(tiny_checkpoint, dtype=torch.float32),
        load_tokenizer(tiny_checkpoint),
    )
    cut_by_a_tie = 0
    for answer in (answer for answer in values.answers if answer.greedy):
        prompt = torch.tensor([values.conversation(answer.conversation).token_ids])
        mask, tokens = torch.ones_like(prompt), answer.tokens
        output = model.generate(prompt, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
        ids = output[0, prompt.shape[1] :].tolist()
        with torch.inference_mode():
            logits = model(output).logits[0, prompt.shape[1] - 1 : -1]
        best, second = logits.topk(2).values.unbind(-1)
        is_open = (best - second < reference_values._NEAR_TIE).tolist()
        ended = [place for place in range(tokens) if is_open[place] or ids[place] < 3]
        decoded = tokenizer.decode(ids[: ended[0]], clean_up_tokenization_spaces=False)
        assert answer.certain_text == decoded.partition("\ufffd")[0]
        known = answer.text.partition("\ufffd")[0]
        cut_by_a_tie += answer.certain_text not in ("", known)
    assert cut_by_a_tie


def test_ends_and_sizes(values: ReferenceValues, tiny_checkpoint: Path) -> None:
    """End token, turn end, BOS and sizes come from the checkpoint."""
    assert [token.text for token in values.end_tokens] == ["<|im_end|>"]
    assert values.turn_end == "<|im_end|>"
    assert not values.adds_bos
    assert values.vocab_size == len(load_tokenizer(tiny_checkpoint))
    assert values.context_length == 512
    in_a_row, behind, empty = values.limits  # what holds for nearly every chat template
    assert in_a_row.startswith("a second message of one role in a row")
    assert behind.startswith("a system message behind others")
    assert empty.startswith("an empty system message")


def test_how_answers_are_made_is_kept(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Sampling and the longest answer, as generation_config.json has them, and nothing else."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "sampled"))
    own = {"do_sample": True, "temperature": 0.6, "max_new_tokens": 4096}
    change_json(folder / "generation_config.json", **own)
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    made = with_reference_values(checkpoint, system=None, noise_types=(), out_dir=tmp_path / "made")
    reference = ReferenceValues.read(made.reference_path)
    assert reference.generation == own


def test_an_end_that_config_json_alone_names_is_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """The daemon ends there: the GGUF has it. One that is no token of the model is nobody's end."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "ends"))
    change_json(folder / "config.json", eos_token_id=[2, 0])
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    made = with_reference_values(checkpoint, system=None, noise_types=(), out_dir=tmp_path / "made")
    reference = ReferenceValues.read(made.reference_path)
    assert [token.text for token in reference.end_tokens] == ["<|im_end|>", "<|endoftext|>"]
    gguf = convert(made, type="f32", out_dir=tmp_path / "gguf")
    assert gguf.facts["end_tokens"] == ["<|im_end|>", "<|endoftext|>"]
    text = TextSide(load_tokenizer(folder), folder, system=None)
    assert [one.id for one in text.end_tokens({"eos_token_id": [-1, True, None, 1 << 40]}, {})] == [
        2
    ]


def test_a_piece_of_text_that_config_json_alone_names_is_no_end(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """A class' default, such as 2, in a vocabulary of its own: as a stop it would cut texts."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "ends"))
    plain = load_tokenizer(folder).convert_tokens_to_ids("a")
    change_json(folder / "config.json", eos_token_id=[plain, 2])
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    made = with_reference_values(checkpoint, system=None, noise_types=(), out_dir=tmp_path / "made")
    reference = ReferenceValues.read(made.reference_path)
    assert [token.text for token in reference.end_tokens] == ["<|im_end|>"]
    gguf = convert(made, type="f32", out_dir=tmp_path / "gguf")
    assert gguf.facts["end_tokens"] == ["<|im_end|>"]
    assert any("names token 'a' as an end" in note for note in gguf.facts["notes"])


def test_an_end_that_no_other_file_names_is_one_whatever_it_is() -> None:
    def ends(*others: int, eos: int | None = None) -> tuple[int, ...]:
        named = {"eos_token_id": list(others)}
        return named_ends(named, {"eos_token_id": 7}, eos=eos, is_special=lambda _: False)

    assert (ends(), ends(3), ends(eos=3), ends(7, 3)) == ((7,), (3,), (3,), (7, 3))


_END = Special(id=2, text="<|im_end|>")
_BARE = CHAT_TEMPLATE.replace("+ '<|im_end|>'", "")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (CHAT_TEMPLATE, None),
        (CHAT_TEMPLATE.replace("<|im_end|>", "<|over|>"), "ends turns with '<|over|>', which is"),
        (_BARE.replace("<|im_start|>", "### "), "writes nothing behind an answer"),
        # The last answer's end is written where another turn follows.
        (CHAT_TEMPLATE.replace("'<|im_end|>'", "('' if loop.last else '<|im_end|>')"), None),
        # An end by another name: what begins the next turn (GLM 4).
        (_BARE.replace("<|im_start|>' + message['role']", "<|im_end|>' + message['role']"), None),
        ("{{ raise_exception('no') if messages | length > 1 }}" + _BARE, None),
    ],
)
def test_an_answer_that_nothing_ends(
    template: str, said: str | None, tiny_checkpoint: Path
) -> None:
    """Marks that nobody added to the tokenizer, or none at all; the ends are what files name."""
    tokenizer = load_tokenizer(tiny_checkpoint)
    tokenizer.chat_template = template
    found = TextSide(tokenizer, tiny_checkpoint, system=None).without_end((_END,))
    assert (found is None) == (said is None)
    for part in (said, "unless it was trained to write '<|im_end|>'", "-p stop=") if said else ():
        assert part in str(found)


@pytest.mark.parametrize("ends", [True, False])
def test_that_nothing_ends_an_answer_is_told_unless_one_was_seen_to_end(
    tiny_checkpoint: Path, tmp_path: Path, *, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some templates leave the end out that a checkpoint was trained with: its answers tell."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "bare"))
    (folder / "chat_template.jinja").write_text(_BARE, encoding="utf-8")
    monkeypatch.setattr(Scorer, "greedy", lambda *_, **__: ([5, 6], ends))
    heard = Listener()
    write_reference_values(folder, system=None, labels=("positive",), reporter=heard)
    told = [one for one in heard.warnings if "writes nothing behind an answer" in one]
    limits = ReferenceValues.read(folder / "reference.json").limits
    assert told == [one for one in limits if "nothing behind" in one]
    assert len(told) == (not ends)


def test_noise_of_every_type_is_estimated(values: ReferenceValues) -> None:
    """Coarser types move the model further."""
    noise = {name: found.mean_kl_nats for name, found in values.noise.items()}
    assert tuple(noise) == NOISE_TYPES
    assert 0 <= noise["f16"] < noise["bf16"] < noise["q8_0"] <= noise["q6_k"] < noise["q5_0"] < 0.1
    assert noise["q5_0"] < noise["q4_0"]


def test_default_system_prompt_of_the_template_is_seen(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Without a task's system prompt, SYSTEM has to be what the template adds by itself."""
    values = values_of(tiny_checkpoint, tmp_path)
    assert values.system == values.default_system == DEFAULT_SYSTEM
    assert DEFAULT_SYSTEM in values.conversation("greeting").rendered


def edit_template(checkpoint: Path, folder: Path, template: str | None) -> Path:
    """A copy with another chat template."""
    copy = folder / "edited"
    shutil.copytree(checkpoint, copy)
    tokenizer = load_tokenizer(copy)
    tokenizer.chat_template = template
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(copy)
    return copy


def test_without_a_chat_template_prompts_are_continued(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """A base model's probes are the plain texts, of one turn."""
    copy = edit_template(tiny_checkpoint, tmp_path, None)
    with JSONLReporter(tmp_path / "events.jsonl") as reporter:
        write_reference_values(copy, system=None, noise_types=(), reporter=reporter)
    assert "the tag continues texts" in (tmp_path / "events.jsonl").read_text()
    values = ReferenceValues.read(copy / "reference.json")
    assert not values.has_chat_template
    assert values.conversation("greeting").rendered == "Hi"
    assert all(len(conversation.turns) == 1 for conversation in values.conversations)


def test_what_ollama_cannot_do_is_a_stated_limit(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A template that refuses a system turn loses those probes and says so; trimming is served."""
    template = (
        "{% for m in messages %}"
        "{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    copy = edit_template(tiny_checkpoint, tmp_path, template)
    write_reference_values(copy, system=None)
    values = ReferenceValues.read(copy / "reference.json")
    names = {conversation.name for conversation in values.conversations}
    assert "white space" in names
    assert "other system" not in names
    assert any("'other system'" in limit for limit in values.limits)


def test_a_system_prompt_that_cannot_be_written_is_named(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """A template that refuses it renders no probe of such a tag; one that leaves it out, all."""
    template = (
        "{% for m in messages %}{% if m['role'] != 'system' %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    copy = edit_template(tiny_checkpoint, tmp_path / "left-out", template)
    with JSONLReporter(tmp_path / "events.jsonl") as reporter:
        write_reference_values(copy, system="Be brief.", noise_types=(), reporter=reporter)
    assert "SYSTEM does not reach the model" in (tmp_path / "events.jsonl").read_text()
    values = ReferenceValues.read(copy / "reference.json")
    assert any("leaves a system prompt out" in limit for limit in values.limits)
    refusing = template.replace(
        "{% endif %}", "{% else %}{{ raise_exception('no') }}{% endif %}", 1
    )
    copy = edit_template(tiny_checkpoint, tmp_path / "refused", refusing)
    with pytest.raises(ModelError, match="refuses a system prompt, and the tag has SYSTEM"):
        write_reference_values(copy, system="Be brief.", noise_types=())


def test_a_template_for_tools_alone_is_a_stated_limit(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """transformers takes it by itself where there are tools; a tag has one template."""
    source = shutil.copytree(tiny_checkpoint, tmp_path / "source")
    tokenizer = load_tokenizer(source)
    default = tokenizer.chat_template
    tokenizer.chat_template = {"default": default, "tool_use": source_of("qwen2.5")}
    tokenizer.save_pretrained(source)
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    with JSONLReporter(tmp_path / "events.jsonl") as reporter:
        made = with_reference_values(
            checkpoint, system=None, noise_types=(), out_dir=tmp_path / "made", reporter=reporter
        )
    values = ReferenceValues.read(made.reference_path)
    (limit,) = [one for one in values.limits if "tool_use" in one]
    assert limit in (tmp_path / "events.jsonl").read_text()
    assert values.template is not None
    assert values.template.capabilities == ()


def test_a_default_of_the_day_is_no_system_prompt(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """What the chat template says of today stays its own: SYSTEM would say it for ever."""
    copy = edit_template(tiny_checkpoint, tmp_path, source_of("granite"))
    write_reference_values(copy, system=None)
    values = ReferenceValues.read(copy / "reference.json")
    assert values.system is None
    assert values.default_system is None
    assert "Today's Date: " in values.conversation("greeting").rendered


def test_tools_thinking_and_dates_are_probed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A template that has them gets probes of them, and the day they were rendered on."""
    copy = edit_template(tiny_checkpoint, tmp_path, source_of("smollm3"))
    change_json(copy / "config.json", max_position_embeddings=4096)
    write_reference_values(copy, system=None)
    values = ReferenceValues.read(copy / "reference.json")
    assert values.template is not None
    assert values.template.capabilities == ("tools", "thinking")
    names = {conversation.name for conversation in values.conversations}
    assert {"tools", "result of a tool", "earlier thinking", "no thinking"} <= names
    (form,) = values.dates
    assert form == "%d %B %Y"
    greeting = values.conversation("greeting")
    assert greeting.think  # what a daemon takes a request without `think` for
    assert values.dates[form] in greeting.rendered
    assert "03 February 2031" in values.rendered_on(greeting, date(2031, 2, 3))
    tokenizer = load_tokenizer(copy)
    called = values.conversation("result of a tool")
    assert called.rendered == tokenizer.apply_chat_template(
        called.messages,
        tools=list(called.tools),
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=True,
    )


def test_a_template_that_always_fails_is_an_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A broken chat template is named, not passed over."""
    copy = edit_template(tiny_checkpoint, tmp_path, "{{ raise_exception('broken') }}")
    with pytest.raises(ModelError, match="chat template fails"):
        write_reference_values(copy, system=None)


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ("messages[0]['role'] != 'system'", "a system turn is needed"),
        ("not tools", "tools are needed"),
    ],
)
def test_a_template_that_refuses_a_lone_user_is_one_error(
    source: Checkpoint, tmp_path: Path, refused: str, reason: str
) -> None:
    """Whatever is asked of it before: the key of the work looks at the template, too."""
    raising = f"{{% if {refused} %}}{{{{ raise_exception('{reason}') }}}}{{% endif %}}"
    (source.path / "chat_template.jinja").write_text(raising + CHAT_TEMPLATE)
    with pytest.raises(ModelError, match=f"fails on a single user message: {reason}") as caught:
        with_reference_values(source, system=None, out_dir=tmp_path / "made")
    assert "--chat-template" in str(caught.value.hint)


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system would kill the process without a word."""
    numbers = sum(one.numel() for one in load_model(tiny_checkpoint).parameters())
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    monkeypatch.setattr(memory, "free_bytes", lambda _: 4 * numbers)
    with pytest.raises(ModelError, match=r"GB of memory, .* GB are free") as caught:
        write_reference_values(copy, system=None)
    assert "ollama-bridge publish" in (caught.value.hint or "")
    monkeypatch.setattr(memory, "free_bytes", lambda _: 5 * numbers)
    write_reference_values(copy, system=None, noise_types=())
    assert ReferenceValues.read(copy / "reference.json").noise == {}


def test_what_no_gguf_can_say_is_refused_before_the_weights_are_read(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Values are computed for the proof of a GGUF, and take minutes."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    (copy / "model.safetensors").unlink()
    config = json.loads((copy / "config.json").read_text())
    scaling = {"rope_type": "dynamic", "factor": 2.0}
    change_json(copy / "config.json", rope_parameters=scaling)
    with pytest.raises(ConversionError, match="rope_type is 'dynamic'") as caught:
        write_reference_values(copy, system=None)
    assert f"up to {config['max_position_embeddings']} tokens" in str(caught.value.hint)


def test_only_the_noise_that_is_asked_for_is_estimated(source: Checkpoint, tmp_path: Path) -> None:
    """The same estimate as among all; who asks for others does not get these values again."""
    out_dir, types = tmp_path / "made", noise_types_of("q4_k_m")
    made = with_reference_values(source, system=None, noise_types=types, out_dir=out_dir)
    noise = ReferenceValues.read(made.reference_path).noise
    assert tuple(noise) == types == ("q4_k_s",)
    assert noise_types_of("q2_k") == ()
    every = with_reference_values(source, system=None, out_dir=out_dir)
    found = ReferenceValues.read(every.reference_path).noise
    assert tuple(found) == NOISE_TYPES
    assert found["q4_k_s"] == noise["q4_k_s"]


@pytest.mark.parametrize("right", [0, 1, 20, 47, 48], ids="{} right".format)
def test_a_guessed_answer_is_what_the_model_says_without_it(
    tiny_checkpoint: Path, right: int
) -> None:
    """As far as it is right nothing is written anew; behind that the model goes on by itself."""
    model, tokenizer = (
        load_model(tiny_checkpoint, dtype=torch.float32),
        load_tokenizer(tiny_checkpoint),
    )
    scorer = Scorer(model, tokenizer)
    prompt = tokenizer("Say one word.", add_special_tokens=False).input_ids
    said, ended = scorer.greedy(prompt, ends=[])
    assert (len(said), ended) == (48, False)
    wrong = [(token + 1) % 100 for token in said[right:]]
    assert scorer.greedy(prompt, [], guess=[*said[:right], *wrong, 5]) == (said, False)
    assert scorer.greedy(prompt, [], guess=said[:right]) == (said, False)
    ends = [said[30]]
    answer = said[: said.index(ends[0])]
    assert scorer.greedy(prompt, ends, guess=[*said[:right], *wrong]) == (answer, True)
    assert scorer.greedy(prompt, ends, guess=answer) == (answer, True)


def test_answers_that_lie_here_already_are_proven_and_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another run, for another type. What a damaged file says is no answer of the model's."""
    folder = build_checkpoint("mistral", tmp_path / "source")
    answer_and_end(folder, "Fair?", "<|im_end|>")
    source = resolve_model(str(folder), cache_dir=tmp_path / "models")
    greedy, passes = Scorer.greedy, []

    def counted(scorer: Scorer, *args: Any, **guess: Any) -> Any:
        forward = scorer.model.forward

        def count(**inputs: Any) -> Any:
            passes.append(inputs)
            return forward(**inputs)

        with monkeypatch.context() as patch:
            patch.setattr(scorer.model, "forward", count)
            return greedy(scorer, *args, **guess)

    def values_in(run: str) -> dict[str, Any]:
        passes.clear()
        out_dir = home_dir() / "runs" / run / "checkpoint"
        made = with_reference_values(source, system=None, noise_types=(), out_dir=out_dir)
        return ReferenceValues.read(made.reference_path).model_dump()

    monkeypatch.setattr(Scorer, "greedy", counted)
    first = values_in("a")
    assert {answer["text"] for answer in first["answers"]} == {"Fair?"}
    assert len(passes) > 5 * len(first["answers"])
    assert values_in("b") == first
    assert len(passes) == len(first["answers"])
    for run in "ab":
        path = home_dir() / "runs" / run / "checkpoint" / "reference.json"
        path.write_text(path.read_text().replace('"text": "Fair?"', '"text": "Fear!"'))
    assert values_in("c") == first
    assert len(passes) > len(first["answers"])


@pytest.mark.parametrize("hard", [True, False], ids=["one disk", "another disk"])
def test_with_reference_values_links_the_weights(
    source: Checkpoint,
    tmp_path: Path,
    hashed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    hard: bool,
) -> None:
    """Another system prompt is another checkpoint artefact with the same weights, not a copy."""
    if not hard:
        monkeypatch.setattr(os, "link", fail_as_across_disks)
    made = with_reference_values(source, system="Other.", out_dir=tmp_path / "made")
    assert ReferenceValues.read(made.reference_path).system == "Other."
    weights = made.path / "model.safetensors"
    assert weights.samefile(source.path / "model.safetensors")
    assert "model.safetensors" not in hashed
    assert Checkpoint.open(made.path, verify_digests=True).digest == made.digest
    again = with_reference_values(source, system="Other.", out_dir=tmp_path / "made")
    assert again.digest == made.digest
