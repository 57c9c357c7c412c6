"""`package`, up to the daemon: what a tag is made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from fakes.adapters import build_adapter
from fakes.architectures import build_checkpoint
from fakes.command_line import run_in_process
from fakes.daemon import FakeDaemon
from fakes.exports import tiny_exports
from fakes.ggufs import metadata_of, rewrite
from fakes.json_files import change_json

from ollama_bridge import registration
from ollama_bridge.build_checks import check_can_be_written
from ollama_bridge.client import Client
from ollama_bridge.conversion import Target, convert
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import (
    ArtifactError,
    ConfigError,
    ConversionError,
    ModelError,
    ModelfileError,
    OllamaBridgeError,
    RegistryError,
)
from ollama_bridge.inspection import verify
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.packaging import package as packaging
from ollama_bridge.packaging.package import package
from ollama_bridge.reference import REFERENCE_KEY, ReferenceValues
from ollama_bridge.reporting import Event, Note
from ollama_bridge.run_folder import hold_run
from ollama_bridge.storage.artifacts import GGUFFile, RegisteredModel, Work
from ollama_bridge.storage.drafts import open_draft

TRAINED_WITH = "Is it positive or negative?"


@dataclass
class Notes:
    """Keeps what is said to the user."""

    said: list[str]

    def emit(self, event: Event) -> None:
        """Keep a note."""
        if isinstance(event, Note):
            self.said.append(event.message)


class AtTheDaemonError(Exception):
    """What was made for it."""

    def __init__(self, gguf: GGUFFile, modelfile: Modelfile, *_: object, **__: object) -> None:
        super().__init__()
        self.values = ReferenceValues.read(gguf.path / "reference.json")
        self.modelfile = modelfile
        self.system = modelfile.system


@pytest.fixture
def at_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is registered: `made` catches what would be."""

    def register(*args: GGUFFile, **kwargs: object) -> None:
        raise AtTheDaemonError(*args, **kwargs)

    monkeypatch.setattr(registration, "register", register)


def made(
    source: str,
    out_dir: Path,
    *,
    system: str | None = None,
    base: str | None = None,
    license_file: Path | None = None,
    chat_template: Path | None = None,
    template: str = "auto",
    parameters: Mapping[str, object] = MappingProxyType({}),
    shown: Mapping[str, object] = MappingProxyType({}),
    notes: list[str] | None = None,
) -> AtTheDaemonError:
    """What `package` would register; every tag of the daemon is as it is shown."""
    with FakeDaemon(shown=shown) as daemon, pytest.raises(AtTheDaemonError) as caught:
        package(
            source,
            "my-model",
            system=system,
            base=base,
            license_file=license_file,
            chat_template=chat_template,
            recipe_modelfile={"template": template, "parameters": parameters},
            out_dir=out_dir,
            host=daemon.host,
            reporter=Notes([] if notes is None else notes),
        )
    return caught.value


@pytest.mark.usefixtures("at_the_daemon")
def test_what_was_trained_here_keeps_its_system_prompt_and_labels(tmp_path: Path) -> None:
    """As `register` of its GGUF does; the chat template's default is what it never learnt with."""
    trained = tiny_exports(tmp_path / "trained", seed=0, system=TRAINED_WITH).checkpoint
    tag = made(str(trained.path), tmp_path / "run")
    assert tag.values.system == TRAINED_WITH
    assert tag.values.labels == ("positive", "negative")
    assert tag.system == TRAINED_WITH
    other = made(str(trained.path), tmp_path / "other", system="Be brief.")
    assert (other.values.system, other.system) == ("Be brief.", "Be brief.")


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF that was made here, as a daemon stores it."""
    folder = tmp_path_factory.mktemp("store")
    gguf = tiny_exports(folder / "trained", seed=0, system=TRAINED_WITH).gguf("f16").gguf_path
    return gguf.rename(folder / f"sha256-{digest_file(gguf)}")


@pytest.mark.usefixtures("at_the_daemon")
def test_a_tag_of_a_tag_keeps_what_that_says(blob: Path, tmp_path: Path) -> None:
    """Its file alone has none of it; what was asked for goes first, and the rest is named."""
    shown = {
        "modelfile": f"FROM {blob}\nTEMPLATE hand-written\n",
        "template": "hand-written",
        "system": "Be brief.",
        "parameters": 'temperature 0.5\nnum_ctx 512\nlow_vram true\nstop "User:"',
        "license": "Free for all.",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    notes: list[str] = []
    tag = made("ollama:m", tmp_path / "run", parameters={"num_ctx": 256}, shown=shown, notes=notes)
    assert (tag.values.system, tag.system) == ("Be brief.", "Be brief.")
    assert tag.values.labels == ("positive", "negative")
    kept = tag.modelfile.parameters
    assert (kept["temperature"], kept["num_ctx"]) == (0.5, 256)
    assert kept["stop"] == (*(end.text for end in tag.values.end_tokens), "User:")
    assert tag.modelfile.license == "Free for all."
    licence = tmp_path / "LICENCE"
    licence.write_text("Mine.")
    other = made("ollama:m", tmp_path / "run", license_file=licence, shown=shown)
    assert other.modelfile.license == "Mine."
    assert "the tag keeps from m: SYSTEM; PARAMETER stop, temperature; LICENSE (else" in notes[0]
    assert "the tag does not keep from m: PARAMETER low_vram; MESSAGE; TEMPLATE (" in notes[-1]


@pytest.mark.usefixtures("at_the_daemon")
def test_an_adapter_keeps_what_the_tag_says_that_is_its_base(blob: Path, tmp_path: Path) -> None:
    """As FROM and ADAPTER have it; what that tag leaves open is set as for any adapter."""
    shown = {
        "modelfile": f"FROM {blob}\nTEMPLATE hand-written\n",
        "template": "hand-written",
        "system": "Be brief.",
        "parameters": 'top_k 7\nstop "User:"',
        "license": "Free for all.",
        "messages": [{"role": "user", "content": "Hi"}],
    }
    trained = tiny_exports(tmp_path / "trained", seed=0, system=TRAINED_WITH).checkpoint.path
    adapter = build_adapter(trained, tmp_path / "adapter")
    notes: list[str] = []
    tag = made(str(adapter), tmp_path / "run", base="ollama:m", shown=shown, notes=notes)
    assert (tag.values.system, tag.system) == ("Be brief.", "Be brief.")
    parameters = tag.modelfile.parameters
    assert parameters["stop"] == (*(end.text for end in tag.values.end_tokens), "User:")
    assert (parameters["top_k"], parameters["temperature"]) == (7, 0.0)
    assert tag.modelfile.license == "Free for all."
    assert any("the tag keeps from m: SYSTEM; PARAMETER stop, top_k; LI" in note for note in notes)
    assert "the tag does not keep from m: MESSAGE; TEMPLATE (" in notes[-1]
    other = made(str(adapter), tmp_path / "run", base="ollama:m", system="", shown=shown)
    assert other.system is None


@pytest.mark.usefixtures("at_the_daemon")
def test_a_tag_of_a_tag_answers_as_that_did(blob: Path, tmp_path: Path) -> None:
    """What it left to Ollama is no business of ours; of a checkpoint that says nothing, it is."""
    notes: list[str] = []
    shown = {"modelfile": f"FROM {blob}\n", "parameters": "temperature 0.5"}
    tag = made("ollama:m", tmp_path / "run", shown=shown, notes=notes)
    kept = {name: value for name, value in tag.modelfile.parameters.items() if name != "stop"}
    assert kept == {"num_predict": -1, "repeat_penalty": 1.0, "temperature": 0.5}
    assert any("PARAMETER num_predict -1, repeat_penalty 1.0 (else" in note for note in notes)
    (tmp_path / "model.gguf").hardlink_to(blob)
    of_file = made(str(tmp_path / "model.gguf"), tmp_path / "other", notes=notes)
    assert of_file.modelfile.parameters["num_predict"] == 1024
    assert "num_predict 1024, repeat_penalty 1.0, temperature 0.0 (else" in notes[-1]


SAMPLED = {
    "general.sampling.temp": 0.5,
    "general.sampling.top_p": 0.75,
    "general.sampling.penalty_repeat": 1.25,
}


@pytest.mark.parametrize(
    ("version", "parameters"),
    [
        ("0.24.0", {"repeat_penalty": 1.1, "temperature": 0.8}),
        ("0.33.0", {"repeat_penalty": 1.0, "temperature": 0.8}),
        (
            "0.34.4",
            {"repeat_penalty": 1.25, "repeat_last_n": 64, "temperature": 0.5, "top_p": 0.75},
        ),
    ],
)
@pytest.mark.usefixtures("at_the_daemon")
def test_a_tag_of_a_tag_is_sampled_as_that_was(
    version: str,
    parameters: dict[str, float],
    blob: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its file from 0.34 on, but over 64 tokens and with Ollama's own top_k, not as torch is."""
    gguf = rewrite(blob, tmp_path / "m", metadata=lambda keys: keys.update(SAMPLED))
    stored = gguf.rename(tmp_path / f"sha256-{digest_file(gguf)}")
    monkeypatch.setattr(Client, "version", lambda _: version)
    notes: list[str] = []
    shown = {"modelfile": f"FROM {stored}\n"}
    tag = made("ollama:m", tmp_path / "run", shown=shown, notes=notes)
    kept = {name: value for name, value in tag.modelfile.parameters.items() if name != "stop"}
    assert kept == {"num_predict": -1, **parameters}
    named = next(note for note in notes if "does not set these" in note)
    assert ("temperature" in named) is (version < "0.34")
    assert "the context is left to Ollama and the machine, as in ollama:m (else" in notes[-1]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"template": "chatlm"}, "no modelfile 'chatlm'"),
        ({"template": "mine.j2"}, "no modelfile 'mine.j2'"),
        ({"parameters": {"temprature": 1}}, "temprature"),
        ({"parameters": {"use_mmap": 1}}, "must be true or false"),
    ],
)
def test_what_no_modelfile_can_have_is_told_first(asked: dict[str, object], problem: str) -> None:
    """Not after the values and the conversion."""
    with pytest.raises((ConfigError, ModelfileError), match=problem):
        package("./no-checkpoint", "my-model", recipe_modelfile=asked)


@pytest.mark.usefixtures("at_the_daemon")
def test_a_licence_is_in_the_tag_whether_it_is_published_or_not(blob: Path, tmp_path: Path) -> None:
    """Told before the work where there is no such file."""
    (tmp_path / "model.gguf").hardlink_to(blob)
    licence = tmp_path / "LICENCE"
    with pytest.raises(ConfigError, match="cannot read the licence"):
        package(str(tmp_path / "model.gguf"), "my-model", license_file=licence)
    licence.write_text("Mine.")
    tag = made(str(tmp_path / "model.gguf"), tmp_path / "run", license_file=licence)
    assert tag.modelfile.license == "Mine."


@pytest.mark.parametrize(
    ("source", "tag", "other"),
    [
        ("ollama:m", "m", "m:q8_0"),
        ("ollama:M:latest", "m", "m:q8_0"),
        ("ollama:library/m:4b", "m:4b", "m:4b-q8_0"),
    ],
)
def test_no_tag_replaces_the_one_that_it_is_made_of(source: str, tag: str, other: str) -> None:
    """Its own TEMPLATE, MESSAGEs and what sees would be gone; so would the base of an adapter."""
    with pytest.raises(ConfigError, match="would replace its own source") as caught:
        package(source, tag)
    assert caught.value.hint == f"name another: {other}"
    with pytest.raises(ConfigError, match="would replace its own source"):
        package("./adapter", tag, base=source)


def test_what_is_kept_of_a_failed_proof_replaces_no_source() -> None:
    """A model that was kept so is packaged again: its name is the one that would be taken."""
    with pytest.raises(ConfigError, match="tag m-unverified would replace its own") as caught:
        package("ollama:m-unverified", "m", force=True)
    assert caught.value.hint == "name another: m:q8_0"


@pytest.mark.usefixtures("at_the_daemon")
def test_a_file_that_was_made_here_keeps_its_system_prompt_and_labels(
    blob: Path, tmp_path: Path
) -> None:
    """It carries them; a tag of it that has its TEMPLATE, too, loses nothing to be told of."""
    (tmp_path / "model.gguf").hardlink_to(blob)
    of_file = made(str(tmp_path / "model.gguf"), tmp_path / "run")
    shown = {"modelfile": f"FROM {blob}\n", "template": of_file.modelfile.template}
    notes: list[str] = []
    of_tag = made("ollama:m", tmp_path / "other", shown=shown, notes=notes)
    for tag in (of_file, of_tag):
        assert tag.values.labels == ("positive", "negative")
        assert tag.system == TRAINED_WITH
    assert not any("keep" in note for note in notes)


WITHOUT_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


# As Phi-3's first one, which has nothing for it.
LEAVES_SYSTEM_OUT = WITHOUT_SYSTEM.replace(
    "{{ raise_exception('System role not supported') }}{% endif %}", "{% else %}"
).replace("{% endfor %}", "{% endif %}{% endfor %}")


@pytest.fixture(scope="module")
def stretched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Phi-3 of LongRoPE, up to 512 tokens unstretched, whose format has no system turn."""
    folder = tmp_path_factory.mktemp("stretched")
    checkpoint = build_checkpoint("phi3-long", folder / "phi3")
    (checkpoint / "chat_template.jinja").write_text(WITHOUT_SYSTEM)
    source = resolve_model(str(checkpoint), cache_dir=folder / "models")
    gguf = convert(source, type="f16", out_dir=folder / "f16").gguf_path
    return gguf.rename(folder / f"sha256-{digest_file(gguf)}")


@pytest.mark.usefixtures("at_the_daemon")
def test_what_could_not_be_proven_of_a_tag_is_not_kept(stretched: Path, tmp_path: Path) -> None:
    """Its own TEMPLATE may have a place for SYSTEM; its num_ctx takes the factors of long texts."""
    shown = {
        "modelfile": f"FROM {stretched}\n",
        "system": "Be brief.",
        "parameters": "num_ctx 2048\ntemperature 0.5",
    }
    notes: list[str] = []
    tag = made("ollama:m", tmp_path / "run", shown=shown, notes=notes)
    assert (tag.values.system, tag.system) == (None, None)
    assert (tag.modelfile.parameters["num_ctx"], tag.modelfile.parameters["temperature"]) == (
        512,
        0.5,
    )
    assert any("keeps from m: PARAMETER temperature (else" in note for note in notes)
    assert "does not keep from m: SYSTEM (the chat template in its file refuses one)" in notes[-1]
    assert "PARAMETER num_ctx 2048 (above 512, " in notes[-1]
    asked = made("ollama:m", tmp_path / "run", parameters={"num_ctx": 1024}, shown=shown)
    assert asked.modelfile.parameters["num_ctx"] == 1024


@pytest.mark.parametrize(
    ("template", "loss"), [(WITHOUT_SYSTEM, "refuses"), (LEAVES_SYSTEM_OUT, "leaves out")]
)
@pytest.mark.usefixtures("at_the_daemon")
def test_a_system_prompt_that_is_never_written_is_in_no_tag(
    template: str, loss: str, tmp_path: Path
) -> None:
    """Prompts with and without it are the same, which no proof can tell: it is told before."""
    exports = tiny_exports(tmp_path, seed=0, system=TRAINED_WITH, chat_template=template)
    trained = exports.checkpoint
    with pytest.raises(ConfigError, match=f"its chat template {loss} a system prompt"):
        package(str(trained.path), "my-model", system="Be brief.", out_dir=tmp_path / "run")
    source = exports.gguf("f16").gguf_path
    with pytest.raises(ConfigError, match="its chat template") as caught:
        package(str(source), "my-model", system="Be brief.", out_dir=tmp_path / "run")
    assert str(caught.value.hint).endswith("--chat-template FILE.jinja")
    notes: list[str] = []
    tag = made(str(trained.path), tmp_path / "run", notes=notes)
    assert (tag.values.system, tag.system) == (None, None)
    assert any(f"{loss} the system prompt that it was trained with" in note for note in notes)


@pytest.mark.usefixtures("at_the_daemon")
def test_a_system_prompt_of_a_tag_that_is_never_written_is_not_kept(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Its own TEMPLATE may have had a place for it."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "folder")
    (folder / "chat_template.jinja").write_text(LEAVES_SYSTEM_OUT)
    source = resolve_model(str(folder), cache_dir=tmp_path / "models")
    gguf = convert(source, type="f16", out_dir=tmp_path / "f16").gguf_path
    stored = gguf.rename(tmp_path / f"sha256-{digest_file(gguf)}")
    notes: list[str] = []
    shown = {"modelfile": f"FROM {stored}\n", "system": "Be brief."}
    tag = made("ollama:m", tmp_path / "run", shown=shown, notes=notes)
    assert (tag.values.system, tag.system) == (None, None)
    assert (
        "does not keep from m: SYSTEM (the chat template in its file leaves out one)" in notes[-1]
    )
    assert not any("keeps from m: SYSTEM" in note for note in notes)


@pytest.fixture(scope="module")
def formless(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF without a chat template, as a daemon stores it."""
    folder = tmp_path_factory.mktemp("formless")
    copy = shutil.copytree(tiny_checkpoint, folder / "checkpoint")
    (copy / "chat_template.jinja").unlink()
    source = resolve_model(str(copy), cache_dir=folder / "models")
    gguf = convert(source, type="f16", out_dir=folder / "f16").gguf_path
    return gguf.rename(folder / f"sha256-{digest_file(gguf)}")


@pytest.mark.parametrize("said", ["TEMPLATE", "RENDERER"])
@pytest.mark.usefixtures("at_the_daemon")
def test_a_chat_format_that_no_file_has_can_be_given(
    said: str, formless: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """It continued texts, and was proven; both ways out that are told are some."""
    own = "RENDERER x\n" if said == "RENDERER" else ""
    shown = {
        "modelfile": f"FROM {formless}\n{own}",
        "template": "" if own else "User: {{ .Prompt }}",
        "system": "Be brief.",
    }
    with FakeDaemon(shown=shown) as daemon, pytest.raises(ConfigError) as caught:
        package("ollama:m", "my-model", out_dir=tmp_path / "run", host=daemon.host)
    assert f"chat format only in {said};" in caught.value.message
    assert "--chat-template FILE.jinja" in (caught.value.hint or "")
    given = tiny_checkpoint / "chat_template.jinja"
    answers = made("ollama:m", tmp_path / "run", chat_template=given, shown=shown)
    assert answers.values.has_chat_template
    assert "<|im_start|>" in (answers.modelfile.template or "")
    assert answers.system == "Be brief."
    assert "--template completion" in (caught.value.hint or "")
    continues = made("ollama:m", tmp_path / "other", template="completion", shown=shown)
    assert not continues.values.has_chat_template


@pytest.mark.usefixtures("at_the_daemon")
def test_a_tag_that_continues_texts_is_made_of_such_a_one(formless: Path, tmp_path: Path) -> None:
    """Its TEMPLATE is no chat format, and made of it the next one has the same."""
    first = made(str(formless.rename(tmp_path / "m.gguf")), tmp_path / "run")
    (tmp_path / "m.gguf").rename(formless)
    shown = {"modelfile": f"FROM {formless}\n", "template": first.modelfile.template}
    assert made("ollama:m", tmp_path / "other", shown=shown).modelfile.template == (
        first.modelfile.template
    )


def test_convert_writes_the_chat_template_that_it_is_given(
    formless: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that had none."""
    (tmp_path / "m.gguf").hardlink_to(formless)
    given = tiny_checkpoint / "chat_template.jinja"
    words = ["convert", str(tmp_path / "m.gguf"), "--out", str(tmp_path / "out")]
    done = run_in_process(monkeypatch, [*words, "--chat-template", str(given)])
    assert done.code == 0, done.stderr
    keys = metadata_of(tmp_path / "out" / "model.gguf")
    assert keys["tokenizer.chat_template"].startswith(given.read_text())


@pytest.mark.usefixtures("at_the_daemon")
def test_another_chat_template_is_served_of_what_was_trained_here(tmp_path: Path) -> None:
    """The instruction and labels stay those that it was trained with; its file is as it was."""
    trained = tiny_exports(tmp_path / "trained", seed=0, system=TRAINED_WITH).checkpoint
    file = tmp_path / "other.jinja"
    file.write_text(
        trained.path.joinpath("chat_template.jinja").read_text().replace(r"\n", r"\n\n")
    )
    tag = made(str(trained.path), tmp_path / "run", chat_template=file)
    assert (tag.system, tag.values.labels) == (TRAINED_WITH, ("positive", "negative"))
    plain = made(str(trained.path), tmp_path / "plain")
    greeting = [one.values.conversation("greeting").rendered for one in (tag, plain)]
    assert greeting[0] != greeting[1]
    with pytest.raises(ModelError, match="cannot be read"):
        made(str(trained.path), tmp_path / "run", chat_template=tmp_path / "none.jinja")


@pytest.mark.usefixtures("at_the_daemon")
def test_values_of_another_version_are_computed_anew(blob: Path, tmp_path: Path) -> None:
    """A GGUF that was made here needs none of its own to be packaged; what is lost is said."""

    def add_a_field(metadata: dict[str, Any]) -> None:
        values = json.loads(metadata[REFERENCE_KEY])
        metadata[REFERENCE_KEY] = json.dumps(values | {"of_tomorrow": 1})

    gguf = rewrite(blob, tmp_path / "model.gguf", metadata=add_a_field)
    notes: list[str] = []
    tag = made(str(gguf), tmp_path / "run", notes=notes)
    assert tag.values.labels == ()
    assert "(labels, a system prompt) is not read from it: " in notes[0]
    assert "of_tomorrow: Extra inputs are not permitted" in notes[0]


def test_a_size_that_no_file_has_is_refused_before_values_are_computed(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """They take minutes, and it is known from the shapes of the weights."""
    out = tmp_path / "run"
    with pytest.raises(ConversionError, match="the tensors of this model have"):
        package(str(tiny_checkpoint), "my-model", target=Target(size_bytes=1000), out_dir=out)
    assert not (out / "checkpoint").exists()


@pytest.mark.parametrize("imatrix", [False, True], ids=["tokenizer", "importance matrix"])
def test_what_no_file_can_be_made_of_is_refused_before_values_are_computed(
    tiny_checkpoint: Path, tmp_path: Path, imatrix: bool
) -> None:
    """A tokenizer that no GGUF can say, and a matrix of importances that cannot be read."""
    out, source = tmp_path / "run", tmp_path / "source"
    shutil.copytree(tiny_checkpoint, source)
    (tmp_path / "imatrix.gguf").write_bytes(b"none")
    if not imatrix:
        change_json(source / "tokenizer.json", normalizer={"type": "Lowercase"})
    given = tmp_path / "imatrix.gguf" if imatrix else None
    with pytest.raises(OllamaBridgeError, match=r"imatrix\.gguf" if imatrix else "Lowercase"):
        package(str(source), "my-model", imatrix=given, out_dir=out)
    assert not (out / "checkpoint").exists()


@pytest.mark.usefixtures("at_the_daemon")
def test_what_no_adapter_file_can_say_is_refused_before_values_are_computed(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a daemon that takes adapters: for another one it is merged, which says all of it."""
    adapter = build_adapter(tiny_checkpoint, tmp_path / "adapter", use_dora=True)
    asked: dict[str, Any] = {"base": str(tiny_checkpoint), "adapter": True}
    with FakeDaemon() as daemon:
        asked |= {"out_dir": tmp_path / "run", "host": daemon.host}
        monkeypatch.setattr(Client, "version", lambda _: "0.24.0")
        with pytest.raises(ConversionError, match="DoRA scales rows"):
            package(str(adapter), "my-model", **asked)
        assert not (tmp_path / "run" / "checkpoint").exists()
        monkeypatch.setattr(Client, "version", lambda _: "0.34.4")
        with pytest.raises(AtTheDaemonError):
            package(str(adapter), "my-model", **asked)
    assert not (tmp_path / "run" / "adapter").exists()


def test_an_end_that_the_chat_template_alone_writes_is_one(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Its token ends answers though no file names it, which the values will say."""
    source = tmp_path / "source"
    shutil.copytree(tiny_checkpoint, source)
    change_json(source / "tokenizer_config.json", eos_token=None)
    change_json(source / "config.json", eos_token_id=None)
    (source / "generation_config.json").unlink(missing_ok=True)
    check_can_be_written(resolve_model(str(source), cache_dir=tmp_path / "models"))


def test_one_process_packages_in_a_folder(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A second would replace the checkpoint that the first one converts, and holds its tag to."""
    out = tmp_path / "run"
    with FakeDaemon() as daemon, hold_run(out):
        with pytest.raises(ArtifactError, match="another process is writing"):
            package(str(tiny_checkpoint), "my-model", out_dir=out, host=daemon.host)
        with pytest.raises(ArtifactError, match="another process is writing"):
            verify("m", against=str(tiny_checkpoint), out_dir=out, host=daemon.host)
    assert [path.name for path in out.iterdir()] == [".run.lock"]


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Registering makes tags of these facts, of which no daemon knows."""
    facts: dict[str, object] = {"tag": "my-model", "forced": False}

    def register(*_: object, out_dir: Path, **__: object) -> RegisteredModel:
        with open_draft(out_dir, Work("registered_model", "register", 1)) as draft:
            draft.restart()
            return RegisteredModel(out_dir, draft.commit(dict(facts)))

    monkeypatch.setattr(registration, "register", register)
    monkeypatch.setattr(packaging, "write_card", lambda *_, **__: None)
    return facts


def test_only_what_was_proven_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registered: dict[str, object]
) -> None:
    """What `--force` kept stays in the daemon, under its other name, and that is said."""
    published: list[tuple[object, ...]] = []
    monkeypatch.setattr(packaging, "publish", lambda *args, **_: published.append(args))
    trained = tiny_exports(tmp_path / "trained", seed=0, system=TRAINED_WITH).checkpoint
    to = "registry.example/team/my-model:1"
    with FakeDaemon() as daemon:
        words = ["package", str(trained.path), "my-model", "--force", "--publish", to, "--json"]
        words += ["--out", str(tmp_path / "run"), "--host", daemon.host]
        proven = run_in_process(monkeypatch, words)
        registered["forced"] = True
        unproven = run_in_process(monkeypatch, words)
    assert published == [("my-model", to)]
    assert [done.code for done in (proven, unproven)] == [0, 0]
    assert [json.loads(done.stdout)["published"] for done in (proven, unproven)] == [to, None]
    assert "is not published" not in proven.stderr
    assert "is not published" in unproven.stderr


@pytest.mark.usefixtures("registered")
def test_a_tag_whose_registry_is_dead_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the registry's, with what was done and the command that does the rest."""
    trained = tiny_exports(tmp_path / "trained", seed=0, system=TRAINED_WITH).checkpoint
    run, dead = tmp_path / "my run", RegistryError("registry is dead", hint="start it")

    def fail(*_: object, **__: object) -> None:
        raise dead

    monkeypatch.setattr(packaging, "publish", fail)
    to = "127.0.0.1:1/team/my-model:1"
    with FakeDaemon() as daemon:
        words = ["package", str(trained.path), "my-model", "--publish", to, "--out", str(run)]
        done = run_in_process(monkeypatch, [*words, "--insecure", "--host", daemon.host])
    assert done.code == RegistryError.exit_code
    said = "error: my-model is made and proven, but not published: registry is dead\n"
    again = f"ollama-bridge publish my-model {to} --run '{run}' --insecure --host {daemon.host}"
    assert done.stderr.endswith(f"{said}fix:   start it; the tag alone: {again}\n")
    assert f"error: {dead}\n" == said
