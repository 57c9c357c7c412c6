"""Registering in a real daemon: what is right gets its tag, what is wrong is named and does not."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.architectures import WIDE, build_checkpoint
from fakes.exports import (
    SYSTEM,
    Exports,
    damaged,
    lose_a_norm,
    modelfile_of,
    set_eos,
    swap_tokens,
    tiny_exports,
    without_stop,
)
from fakes.private_daemon import PrivateDaemon

from ollama_bridge.client import Client
from ollama_bridge.conversion import convert
from ollama_bridge.daemon.era import REWRITES_GGUF, has_limit
from ollama_bridge.daemon.layout import RELEASES
from ollama_bridge.daemon.store import find_manifest
from ollama_bridge.errors import DaemonError, ParityError
from ollama_bridge.modelfile import Modelfile, dropped_characters
from ollama_bridge.models.gguf.reader import GGUFContents, read_gguf
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.registration import register
from ollama_bridge.registry.manifest import parse_manifest
from ollama_bridge.reporting import Event, Progress
from ollama_bridge.storage.artifacts import GGUFFile
from ollama_bridge.verify.certificate import Certificate

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """A random two-layer Llama."""
    return tiny_exports(tmp_path_factory.mktemp("tiny-exports"), seed=0, system=SYSTEM)


def digests(client: Client) -> dict[str, str]:
    """Tags of the daemon and their manifests."""
    return {model.name: model.digest for model in client.list()}


@pytest.mark.parametrize(
    ("source", "damage", "layer"),
    [
        # What wrong tensors do to answers, a random model need not show. Others are refused in four
        # bits: test_live_quantize.py.
        ("smollm", lose_a_norm, "tensor"),
        ("tiny", set_eos, "tokenizer"),
        ("tiny", swap_tokens, "tokenizer"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_damaged_model_is_refused(
    request: pytest.FixtureRequest,
    client: Client,
    tmp_path: Path,
    source: str,
    damage: Callable[[Path], None],
    layer: str,
) -> None:
    """Each fault of a converter is named by its layer, and the previous version stays."""
    exports: Exports = request.getfixturevalue(source)
    good = exports.gguf("f16")
    modelfile = modelfile_of(good, SYSTEM)
    tag = f"live-damaged:{source}"
    if tag not in digests(client):  # whether it passes is asked elsewhere, here it is only there
        client.upload_blob(good.gguf_path, good.blob_digest)
        client.create(modelfile.to_request(tag, blob_digest=good.blob_digest))
    before = digests(client)
    bad = damaged(good, tmp_path / "bad", damage)
    with pytest.raises(ParityError, match="previous version stays") as caught:
        register(
            bad,
            modelfile,
            tag,
            client=client,
            out_dir=tmp_path / "refused",
        )
    assert caught.value.layer == layer
    assert digests(client) == before
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("gguf_type", ["f16", "q8_0"])
@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (lambda modelfile: replace(modelfile, system=None), "template"),
        (without_stop, "stop"),
        (
            lambda modelfile: replace(
                modelfile, template="{{ .System }}{{ .Prompt }}{{ .Response }}"
            ),
            "template",
        ),
    ],
    ids=["dropped system prompt", "missing stop", "other template"],
)
def test_wrong_modelfile_leaves_no_tag(
    tiny: Exports,
    client: Client,
    tmp_path: Path,
    gguf_type: str,
    change: Callable[[Modelfile], Modelfile],
    layer: str,
) -> None:
    """A wrong Modelfile of a right model is refused; nothing of it stays in the daemon."""
    gguf = tiny.gguf(gguf_type)
    before = digests(client)
    with pytest.raises(ParityError, match="no tag was made") as caught:
        register(
            gguf,
            change(modelfile_of(gguf, SYSTEM)),
            "live-wrong:latest",
            client=client,
            out_dir=tmp_path / "out",
        )
    assert caught.value.layer == layer
    assert digests(client) == before


@pytest.mark.parametrize("case", ["gemma3", "phi3", "qwen3", "olmo2", "granite"])
def test_twenty_good_exports_are_not_refused(client: Client, tmp_path: Path, case: str) -> None:
    """Five architectures in four types each, down to four bits: all are proven, none by force."""
    # As narrow ones are drawn, wide ones would lose more than half a nat by four bits alone.
    sizes = {**WIDE, "initializer_range": 0.1}
    source = build_checkpoint(case, tmp_path / "source", sizes=sizes)
    checkpoint = with_reference_values(
        resolve_model(str(source), cache_dir=tmp_path / "cache"),
        system="Be brief.",
        out_dir=tmp_path / "checkpoint",
    )
    for gguf_type in ("f16", "q8_0", "q6_k", "q4_k_m"):
        gguf = convert(checkpoint, type=gguf_type, out_dir=tmp_path / gguf_type)
        certificate = proof_of(gguf, "Be brief.", f"live-twenty-{case}", client, tmp_path / "tag")
        assert certificate.passed, f"{gguf_type}: {certificate.first_failure}"
        assert certificate.type == gguf_type


def proof_of(
    gguf: GGUFFile, system: str | None, tag: str, client: Client, folder: Path
) -> Certificate:
    """Register, and remove again."""
    model = register(
        gguf, modelfile_of(gguf, system), tag, client=client, out_dir=folder / gguf.path.name
    )
    client.delete(tag)
    return Certificate.read(model.path / "certificate.json")


@pytest.mark.parametrize("number", range(5))
def test_shapes_and_system_prompts_are_not_refused(
    client: Client, tmp_path: Path, number: int
) -> None:
    """Llamas of five shapes, each with what is hard to write as a system prompt."""
    shapes: list[dict[str, object]] = [
        {},
        {"layers": 3, "kv_heads": 4, "system": "Answer with one word: positive or negative."},
        {"tied": False, "kv_heads": 1, "system": 'Say "no" \u00a0👩\u200d🚀\n\n"""\nTwice.'},
        {"head_dim": 32, "system": "{{ .System }} [[ from ]]"},
        {"layers": 1, "system": "  Größe zählt.  "},
    ]
    exports = tiny_exports(tmp_path, seed=number + 1, **shapes[number])  # type: ignore[arg-type]
    for gguf_type in ("f32", "bf16"):
        gguf = exports.gguf(gguf_type)
        assert proof_of(gguf, None, f"live-good-{number}", client, tmp_path / "tag").passed


@pytest.mark.parametrize("linked", [False, True], ids=["uploaded", "linked"])
def test_daemon_killed_while_registering(
    tiny: Exports,
    ollama_binary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    linked: bool,
) -> None:
    """A clear error, no half tag, and the same command succeeds on the restarted daemon."""
    gguf = tiny.gguf("f16")
    if linked:
        monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "daemon" / "models"))
        (tmp_path / "daemon" / "models" / "blobs").mkdir(parents=True)
    with PrivateDaemon(tmp_path / "daemon", binary=ollama_binary) as private:

        class Killer:
            """Kills the daemon in the middle of the proof."""

            armed = True

            def emit(self, event: Event) -> None:
                """Strike once."""
                if isinstance(event, Progress) and event.unit == "probes" and event.done == 5:
                    if self.armed:
                        private.kill()
                    self.armed = False

        killer = Killer()
        with private.client() as opened:
            with pytest.raises(DaemonError):
                register(
                    gguf,
                    modelfile_of(gguf, SYSTEM),
                    "killed:latest",
                    client=opened,
                    out_dir=tmp_path / "out",
                    reporter=killer,
                )
            private.restart()
            assert "killed:latest" not in digests(opened)
            register(
                gguf,
                modelfile_of(gguf, SYSTEM),
                "killed:latest",
                client=opened,
                out_dir=tmp_path / "out",
                reporter=killer,
            )
            assert list(digests(opened)) == ["killed:latest"]
            blob = private.models_dir / "blobs" / gguf.blob_digest.replace(":", "-")
            assert blob.samefile(gguf.gguf_path) == linked


@pytest.mark.parametrize("version", list(RELEASES))
def test_what_a_tag_was_before_leaves_the_store(
    tiny: Exports, installed: Callable[[str], Path], tmp_path: Path, version: str
) -> None:
    """Of a tag that is made anew the daemon keeps what its manifest names, and no file more.

    But for what it was sent, where it serves what it wrote of that: it keeps this for an hour.
    """
    sent: set[str] = set()
    with PrivateDaemon(tmp_path / "store", binary=installed(version)) as private:
        blobs = private.models_dir / "blobs"
        with private.client() as client:
            for gguf in (tiny.gguf("f16"), tiny.gguf("q8_0")):
                out_dir = tmp_path / gguf.path.name
                modelfile = modelfile_of(gguf, SYSTEM)
                # Two threads of 0.24 wait by spinning beside other work.
                parameters = {**modelfile.parameters, "num_thread": 1}
                modelfile = replace(modelfile, parameters=parameters)
                register(gguf, modelfile, "again", client=client, out_dir=out_dir)
                stored = find_manifest(client, "again")
                assert stored is not None
                manifest = parse_manifest(stored.content, where="again")
                needed = {layer.digest.replace(":", "-") for layer in manifest.blobs}
                left = {path.name for path in blobs.iterdir()} - needed
                sent.add(gguf.blob_digest.replace(":", "-"))
                assert needed <= {path.name for path in blobs.iterdir()}
                assert left == (sent if has_limit(version, REWRITES_GGUF) else set())
            assert client.chat("again", "Hi").done_reason


def create_from_text(daemon: PrivateDaemon, modelfile: Modelfile, tag: str, folder: Path) -> None:
    """``ollama create TAG -f Modelfile``, with the real program."""
    (folder / "Modelfile").write_text(modelfile.to_text(), encoding="utf-8", newline="")
    ollama_create(daemon, tag, folder / "Modelfile")


def ollama_create(daemon: PrivateDaemon, tag: str, path: Path) -> None:
    """``ollama create TAG -f PATH``, with the real program."""
    subprocess.run(
        [str(daemon.binary), "create", tag, "-f", str(path)],
        env={"OLLAMA_HOST": daemon.host, "HOME": str(path.parent), "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        '"quoted"',
        'ends with "',
        '""',
        ' """ in the middle of a line',
        "  spaces around  ",
        "two\nlines\r\nand\rmore\n",
        "# no comment\n#\n",
        "\ttab\t",
        "Größe Привет 你好 مرحبا हिन्दी 👍🏽 🇩🇪",
        "FROM x\nPARAMETER temperature 2",
        "{{ .System }} \\n \\",
    ],
)
def test_text_and_api_make_the_same_tag(
    tiny: Exports, daemon: PrivateDaemon, client: Client, tmp_path: Path, text: str
) -> None:
    """What to_text accepts, ``ollama create -f`` makes into the very tag that the API makes."""
    gguf = tiny.gguf("f16")
    modelfile = replace(
        modelfile_of(gguf),
        system=text,
        license=text,
        parameters={"stop": (text, "b"), "temperature": 0.3, "top_k": 7, "use_mmap": True},
    )
    create_from_text(daemon, modelfile, "live-text:cli", tmp_path)
    client.create(modelfile.to_request("live-text:api", blob_digest=gguf.blob_digest))
    by_text, by_api = client.show("live-text:cli"), client.show("live-text:api")
    assert by_text.system == by_api.system == text
    assert by_text.template == by_api.template == modelfile.template
    assert by_text.raw["license"] == by_api.raw["license"] == text
    assert sorted(by_text.parameters.splitlines()) == sorted(by_api.parameters.splitlines())


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python knows newer characters than Go")
def test_every_printable_character_survives_the_text(
    tiny: Exports, daemon: PrivateDaemon, client: Client, tmp_path: Path
) -> None:
    """The characters that we call carried are those that Ollama carries: all of Unicode."""
    characters = "".join(
        chr(code)
        for code in range(0x20, 0x110000)
        if chr(code).isprintable() and unicodedata.category(chr(code)) != "Cs"
    )
    modelfile = replace(modelfile_of(tiny.gguf("f16")), system=characters)
    create_from_text(daemon, modelfile, "live-text:all", tmp_path)
    assert client.show("live-text:all").system == characters


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python knows newer characters than Go")
def test_what_ollama_drops_of_a_text_is_what_we_name(
    daemon: PrivateDaemon, client: Client, tiny: Exports, tmp_path: Path
) -> None:
    """Two characters of each class, then all that there are: lost if and only if named."""
    classes: dict[str, list[str]] = {}
    for code in range(1, 0x110000):
        classes.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    del classes["Cs"]  # no UTF-8
    samples = "".join(f"{name}<{found[0]}{found[-1]}>" for name, found in classes.items())
    everything = "".join(character for found in classes.values() for character in found)
    everything = everything.replace("\r", "").replace("\n", "")
    source = modelfile_of(tiny.gguf("f16")).from_
    for text in (samples.replace("\r", ""), f"({everything})"):
        path = tmp_path / "Modelfile"
        path.write_text(f'FROM {source}\nSYSTEM """{text}"""', encoding="utf-8", newline="")
        ollama_create(daemon, "live-text:dropped", path)
        dropped = {character for _, character in dropped_characters(text)}
        expected = "".join(character for character in text if character not in dropped)
        assert client.show("live-text:dropped").system == expected
        assert {"\u00a0", "\u200d", "\ufeff", "\u3000", "\x01"} & set(text) <= dropped


def test_gguf_in_the_daemon_is_the_file(
    tiny: Exports, client: Client, tmp_path: Path, *, keeps_files: bool
) -> None:
    """What the daemon stores is byte for byte what was converted and read strictly."""
    gguf = tiny.gguf("f16")
    contents: GGUFContents = read_gguf(gguf.gguf_path)
    register(gguf, modelfile_of(gguf, SYSTEM), "live-blob", client=client, out_dir=tmp_path / "out")
    shown = client.show("live-blob")
    assert (gguf.blob_digest.replace(":", "-") in shown.modelfile) == keeps_files
    assert shown.model_info["llama.block_count"] == contents.metadata["llama.block_count"]
    assert shown.capabilities == ("completion",)
