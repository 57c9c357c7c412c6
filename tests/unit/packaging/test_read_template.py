"""``ollama-bridge template``: what a tag will render, without making one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes.formats import source_of
from fakes.models import DEFAULT_SYSTEM
from typer.testing import CliRunner

from ollama_bridge.cli import app
from ollama_bridge.errors import ConfigError, ModelError, TemplateError
from ollama_bridge.inspection import read_template


def test_a_checkpoints_template_is_shown(tiny_checkpoint: Path) -> None:
    """The Go template alone on stdout, so that it can be kept in a file."""
    done = CliRunner().invoke(app, ["template", str(tiny_checkpoint), "--quiet"])
    assert done.exit_code == 0
    assert done.stdout.rstrip("\n") == read_template(str(tiny_checkpoint)).go
    assert DEFAULT_SYSTEM in done.stdout
    assert "conversations" in done.stderr


def test_a_file_is_enough(tmp_path: Path) -> None:
    """A chat template by itself, as JSON with its proof."""
    file = tmp_path / "chat_template.jinja"
    file.write_text(source_of("qwen3"), encoding="utf-8")
    done = CliRunner().invoke(app, ["template", str(file), "--json"])
    found = json.loads(done.stdout)
    assert found["authority"] == "template"
    assert found["tools"]
    assert found["conversations"] > 300


def test_tokens_of_a_file_by_itself_have_stand_ins(tmp_path: Path) -> None:
    """Llama 3's form joins BOS to a text, Zephyr's prints EOS: neither is in the file."""
    file = tmp_path / "chat_template.jinja"
    file.write_text(
        "{% for m in messages %}{% set text = '<|' + m.role + '|>' + m.content %}"
        "{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    found = read_template(str(file))
    assert found.authority == "template"
    assert (found.go or "").count("<|eos_token|>") >= 2
    said, *others = found.differences
    assert said.startswith("<|bos_token|>, <|eos_token|> in place of the tokenizer's own tokens")
    assert said.endswith(f"ollama-bridge template CHECKPOINT --chat-template {file}")
    assert not any("own tokens" in one for one in others)


def test_a_file_in_a_checkpoint_names_it_for_its_tokens(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """The command can be copied, and shows them."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "my-finetune")
    file = folder / "chat_template.jinja"
    file.write_text(
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    _, command = read_template(str(file)).differences[0].split(": ollama-bridge ")
    done = CliRunner().invoke(app, [*command.split(), "--quiet"])
    assert done.exit_code == 0, done.stderr
    assert "<|im_end|>" in done.stdout
    assert "<|eos_token|>" not in done.stdout


def test_thinking_that_stays_in_the_answer_is_offered_as_that(tmp_path: Path) -> None:
    """A daemon takes the request to think, and tells no thoughts from the answer."""
    file = tmp_path / "chat_template.jinja"
    file.write_text(
        "{% for m in messages %}<{{ m.role }}>{% if m.reasoning_content %}<thought>"
        "{{ m.reasoning_content }}</thought>{% endif %}{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>My reasoning: {% endif %}"
    )
    done = CliRunner().invoke(app, ["template", str(file), "--quiet"])
    assert "; offers thinking (as part of the answer)\n" in done.stderr
    assert "- thinking stays in the text of an answer" in done.stderr
    file.write_text(source_of("qwen3"), encoding="utf-8")
    done = CliRunner().invoke(app, ["template", str(file), "--quiet"])
    assert "; offers tools and thinking\n" in done.stderr


def test_one_that_is_given_is_shown_in_place_of_a_checkpoints_own(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """With the checkpoint's tokens, as `package --chat-template` serves it."""
    file = tmp_path / "other.jinja"
    file.write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    words = ["template", str(tiny_checkpoint), "--chat-template", str(file), "--quiet"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert "<system>{{ $.System }}<|im_end|>" in done.stdout
    assert DEFAULT_SYSTEM not in done.stdout
    with pytest.raises(ConfigError, match="not a checkpoint") as caught:
        read_template(str(file), chat_template=tmp_path / "a.jinja")
    assert caught.value.hint == f"ollama-bridge template {tmp_path / 'a.jinja'}"


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, ModelError),
        ("{% if %}", TemplateError),
        ("{{ messages[9].x.y }}", TemplateError),
        ("{{ 'x' * 9999999 }}", ModelError),
    ],
    ids=["missing", "no Jinja", "always fails", "without end"],
)
def test_a_bad_file_is_one_error(
    tmp_path: Path, content: str | None, error: type[Exception]
) -> None:
    """No file, no Jinja, no prompt, or one that is tried in a process of its own first."""
    file = tmp_path / "bad.jinja"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(error) as caught:
        read_template(str(file))
    hint = caught.value.hint or ""
    assert "file" in hint, "what is bad is in no checkpoint"
    assert "tokenizer_config.json" not in hint
