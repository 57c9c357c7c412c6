"""Verifying tags that are already there, made by us or by anybody, in a real daemon."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from fakes.architectures import build_checkpoint
from fakes.command_line import example
from fakes.exports import (
    Exports,
    change_metadata,
    damaged,
    forget_bytes,
    halve_a_window_of_2048,
    halve_the_context,
    lose_a_merge,
    lose_a_norm,
    lose_the_scores,
    modelfile_of,
    repeat_the_embedding,
    say_f16,
    set_add_bos,
    set_eos,
    set_pre_tokenizer,
    shift_a_norm,
    swap_rare_tokens,
    swap_tokens,
    tiny_exports,
    turn_the_output,
    undo_permutation,
    without_stop,
)
from fakes.private_daemon import PrivateDaemon
from fakes.sentencepiece import build_sentencepiece, publish
from llama_converters import LlamaCpp
from llama_quantize import find_tool

from ollama_bridge.client import Client
from ollama_bridge.conversion import convert
from ollama_bridge.digests import digest_file
from ollama_bridge.errors import ParityError
from ollama_bridge.inspection import verify
from ollama_bridge.modelfile import Modelfile
from ollama_bridge.models.reference.values import with_reference_values
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.packaging.package import package
from ollama_bridge.reference import ReferenceValues
from ollama_bridge.storage.artifacts import Checkpoint, GGUFFile, Work
from ollama_bridge.storage.drafts import open_draft
from ollama_bridge.template.comment import with_comment
from ollama_bridge.verification import verify_tag

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """A random two-layer Llama with a system prompt."""
    return tiny_exports(tmp_path_factory.mktemp("verify"), seed=11, system="Be brief.")


@pytest.fixture
def created(client: Client) -> Iterator[Callable[[GGUFFile, Modelfile], str]]:
    """Makes a tag as anybody could, without a proof."""
    tag = "live-verify:latest"

    def create(gguf: GGUFFile, modelfile: Modelfile) -> str:
        client.upload_blob(gguf.gguf_path, gguf.blob_digest)
        client.create(modelfile.to_request(tag, blob_digest=gguf.blob_digest))
        return tag

    yield create
    client.delete(tag)


@pytest.mark.parametrize("gguf_type", ["f32", "f16", "bf16", "q8_0"])
def test_a_good_tag_proves_itself(
    tiny: Exports,
    client: Client,
    created: Callable[[GGUFFile, Modelfile], str],
    gguf_type: str,
    *,
    keeps_files: bool,
) -> None:
    """The values travel in the GGUF: neither the checkpoint nor our folders are needed."""
    gguf = tiny.gguf(gguf_type)
    certificate = verify_tag(created(gguf, modelfile_of(gguf, "Be brief.")), client=client)
    assert certificate.passed, certificate.first_failure
    assert certificate.type == gguf_type
    assert (certificate.blob_digest == gguf.blob_digest) == keeps_files


def test_values_survive_a_copy_of_the_tag(
    tiny: Exports, client: Client, created: Callable[[GGUFFile, Modelfile], str]
) -> None:
    """What ``ollama cp`` and ``FROM tag`` make carries the values too."""
    gguf = tiny.gguf("f16")
    modelfile = modelfile_of(gguf, "Be brief.")
    client.copy(created(gguf, modelfile), "live-verify-copy:latest")
    try:
        assert verify_tag("live-verify-copy", client=client).passed
        changed = {"model": "live-verify-copy", "from": "live-verify"}
        client.create({**changed, "parameters": {"temperature": 5.0}})
        verdict = verify_tag("live-verify-copy", client=client).verdict
        assert verdict.endswith("; it sets temperature 5 (checkpoint: 0)")
        answers = ReferenceValues.read(gguf.reference_path).answers
        said = next(one.certain_text for one in answers if one.greedy and one.certain_text)
        stops = [*modelfile.parameters["stop"], said[-1]]
        client.create({**changed, "parameters": {"stop": stops}})
        failure = verify_tag("live-verify-copy", client=client).first_failure
        assert failure is not None
        assert (failure.name, failure.layer) == ("stops", "stop")
        client.create({**changed, "system": "Be long."})
        failure = verify_tag("live-verify-copy", client=client).first_failure
        assert failure is not None
        assert failure.layer == "template"
    finally:
        client.delete("live-verify-copy")


def test_a_lost_norm_shows_in_q8_0(
    tiny: Exports,
    client: Client,
    created: Callable[[GGUFFile, Modelfile], str],
    tmp_path: Path,
) -> None:
    """Eight bits round less than the first norms of a small model do, and the answers say so."""
    lost = damaged(tiny.gguf("q8_0"), tmp_path / "lost", lose_a_norm)
    bad = damaged(lost, tmp_path / "bad", shift_a_norm)
    failure = verify_tag(created(bad, modelfile_of(bad, "Be brief.")), client=client).first_failure
    assert failure is not None
    assert failure.layer == "tensor"
    assert failure.numbers["answers_kl_nats"] > 1.5 * failure.numbers["answers_kl_bound"]


@pytest.mark.parametrize(
    ("damage", "layer"),
    [
        (undo_permutation, "tensor"),
        (lose_a_norm, "tensor"),
        (shift_a_norm, "tensor"),
        (set_eos, "tokenizer"),
        (set_add_bos, "tokenizer"),
        (set_pre_tokenizer, "tokenizer"),
        (swap_tokens, "tokenizer"),
        (halve_the_context, "tensor"),
    ],
)
def test_a_damaged_file_is_named(
    tiny: Exports,
    client: Client,
    created: Callable[[GGUFFile, Modelfile], str],
    tmp_path: Path,
    damage: Callable[[Path], None],
    layer: str,
) -> None:
    """Faults of a converter, found in the tag alone."""
    bad = damaged(tiny.gguf("f16"), tmp_path / "bad", damage)
    failure = verify_tag(created(bad, modelfile_of(bad, "Be brief.")), client=client).first_failure
    assert failure is not None
    assert failure.layer == layer


def test_a_coarser_file_than_it_says_is_named(
    tiny: Exports,
    client: Client,
    created: Callable[[GGUFFile, Modelfile], str],
    tmp_path: Path,
) -> None:
    """By what it holds, and not by a tensor that might be wrong."""
    bad = damaged(tiny.gguf("q8_0"), tmp_path / "bad", say_f16)
    certificate = verify_tag(created(bad, modelfile_of(bad, "Be brief.")), client=client)
    failure = certificate.first_failure
    assert failure is not None
    assert failure.name == "types of tensors"
    assert failure.difference == (
        "the file says that it is F16, but 100 % of its matrices' numbers are Q8_0"
    )


def test_a_sentencepiece_vocabulary_is_named(
    client: Client, created: Callable[[GGUFFile, Modelfile], str], tmp_path: Path
) -> None:
    """Bytes that are none in the tag alone; by what texts are split, with the checkpoint."""
    source = build_checkpoint("llama", tmp_path / "source")
    (source / "tokenizer_config.json").unlink()
    build_sentencepiece(source)
    publish(source)
    checkpoint = with_reference_values(
        resolve_model(str(source), cache_dir=tmp_path / "cache"),
        system="Be brief.",
        noise_types=("f16",),
        out_dir=tmp_path / "checkpoint",
    )
    good = convert(checkpoint, type="f16", out_dir=tmp_path / "good")
    modelfile = modelfile_of(good, "Be brief.")
    found = verify_tag(created(good, modelfile), client=client, against=checkpoint)
    assert found.passed, found.first_failure
    for damage, against, said in (
        (forget_bytes, None, "is no byte in the GGUF: it is printed like that"),
        (lose_the_scores, checkpoint, "tokenizer.ggml.scores has 0 of 384 scores"),
    ):
        bad = damaged(good, tmp_path / damage.__name__, damage)
        tag = created(bad, modelfile)
        failure = verify_tag(tag, client=client, against=against).first_failure
        assert failure is not None
        assert failure.layer == "tokenizer"
        assert said in (failure.difference or "")


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (lambda modelfile: replace(modelfile, system=None), "template"),
        (lambda modelfile: replace(modelfile, template="{{ .System }}{{ .Prompt }}"), "template"),
        (without_stop, "stop"),
        (lambda modelfile: replace(modelfile, parameters={"stop": ("<|im_end|>",)}), "sampling"),
    ],
    ids=["dropped system prompt", "other template", "missing stop", "sampling left to defaults"],
)
def test_a_wrong_modelfile_is_named(
    tiny: Exports,
    client: Client,
    created: Callable[[GGUFFile, Modelfile], str],
    change: Callable[[Modelfile], Modelfile],
    layer: str,
) -> None:
    """Faults of a Modelfile, found in the tag alone."""
    gguf = tiny.gguf("f16")
    tag = created(gguf, change(modelfile_of(gguf, "Be brief.")))
    failure = verify_tag(tag, client=client).first_failure
    assert failure is not None
    assert failure.layer == layer


def test_messages_of_a_tag_are_named(
    tiny: Exports, client: Client, created: Callable[[GGUFFile, Modelfile], str]
) -> None:
    """Of a tag that was made FROM a good one: the daemon puts them in front of every chat."""
    gguf = tiny.gguf("f16")
    good = created(gguf, modelfile_of(gguf, "Be brief."))
    said = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    tag = "live-verify-messages:latest"
    client.create({"model": tag, "from": good, "messages": said})
    try:
        certificate = verify_tag(tag, client=client)
    finally:
        client.delete(tag)
    failed = [check.name for check in certificate.checks if not check.passed]
    assert failed[:2] == ["MESSAGE", "rendered prompts"]
    with pytest.raises(ParityError, match="the tag has 2 MESSAGEs of its own") as caught:
        certificate.raise_if_failed()
    assert "FROM" in (caught.value.hint or "")


def test_a_stranger_s_tag_against_its_source(
    tiny: Exports,
    daemon: PrivateDaemon,
    client: Client,
    created: Callable[[GGUFFile, Modelfile], str],
    tmp_path: Path,
) -> None:
    """A tag that carries no values is held against the checkpoint that it is said to be."""
    source = tmp_path / "source"
    source.mkdir()
    for file in tiny.checkpoint.path.iterdir():
        if file.name not in ("manifest.json", "reference.json"):
            (source / file.name).write_bytes(file.read_bytes())
    other = tiny_exports(tmp_path / "other", seed=12)
    bare = without_values(tiny, tmp_path / "bare")
    tag = created(bare, modelfile_of(tiny.gguf("f16"), "Be brief."))
    with pytest.raises(ParityError, match="does not carry the values") as caught:
        verify_tag(tag, client=client)
    assert "--against" in (caught.value.hint or "")
    good = verify(tag, against=str(source), out_dir=tmp_path / "a", host=daemon.host)
    assert good.passed, good.first_failure
    wrong = verify(
        tag, against=str(other.checkpoint.path), out_dir=tmp_path / "b", host=daemon.host
    )
    assert wrong.first_failure is not None
    assert wrong.first_failure.layer == "tensor"


def test_a_tag_with_a_given_chat_template_is_held_against_its_checkpoint_with_it(
    daemon: PrivateDaemon, client: Client, tmp_path: Path
) -> None:
    """Of the folder alone it has other prompts, and that is what is found."""
    source = build_checkpoint("llama", tmp_path / "source")
    file = tmp_path / "other.jinja"
    file.write_text((source / "chat_template.jinja").read_text().replace(r"\n", r"\n\n"))
    model = package(
        str(source), "live-verify-given", chat_template=file, gguf_type="f16", host=daemon.host
    )
    try:
        alone, given = (
            verify(
                model.tag,
                against=str(source),
                chat_template=template,
                out_dir=tmp_path / "run",
                host=daemon.host,
            )
            for template in (None, file)
        )
    finally:
        client.delete(model.tag)
    assert alone.first_failure is not None
    assert alone.first_failure.layer == "template"
    assert given.passed, given.first_failure


def test_another_converter_s_file_and_a_bare_from(
    daemon: PrivateDaemon, client: Client, llama_cpp: LlamaCpp, tmp_path: Path
) -> None:
    """No PARAMETER at all: the runner ends where the file says; what nobody set is named."""
    source = build_checkpoint("qwen2", tmp_path / "source")
    template = source / "chat_template.jinja"  # one that Ollama does not take for its own
    template.write_text(with_comment(template.read_text()))
    gguf, tag = tmp_path / "theirs.gguf", "live-verify-bare:latest"
    llama_cpp.run("convert_hf_to_gguf.py", source, "--outtype", "f16", "--outfile", gguf)
    digest = f"sha256:{digest_file(gguf)}"
    client.upload_blob(gguf, digest)
    client.create({"model": tag, "files": {"theirs.gguf": digest}})
    assert client.show(tag).parameters == ""
    try:
        found = verify(tag, against=str(source), out_dir=tmp_path / "run", host=daemon.host)
    finally:
        client.delete(tag)
    assert found.passed, found.first_failure
    assert "leaves to Ollama's defaults: temperature, repeat_penalty, num_predict" in found.verdict


def test_a_type_that_others_write_is_proven(
    tiny: Exports, client: Client, tmp_path: Path, caches: dict[str, str]
) -> None:
    """By the values in its file, and against its checkpoint; a wrong tensor is named there."""
    tool, good = find_tool(caches), tiny.gguf("f16")
    bad = damaged(good, tmp_path / "bad", undo_permutation)
    tag = "live-verify-iq4:latest"
    for source in (good, bad):
        theirs = tmp_path / f"{source.path.name}.gguf"
        subprocess.run([tool, source.gguf_path, theirs, "iq4_nl"], check=True, capture_output=True)
        digest = f"sha256:{digest_file(theirs)}"
        client.upload_blob(theirs, digest)
        client.create(modelfile_of(good, "Be brief.").to_request(tag, blob_digest=digest))
        alone = verify_tag(tag, client=client)
        held = verify_tag(tag, client=client, against=tiny.checkpoint)
        assert alone.type == held.type == "iq4_nl"
        if source is good:
            assert alone.passed, alone.first_failure
            assert held.passed, held.first_failure
        else:
            assert held.first_failure is not None
            assert "attn_q.weight: its rows" in (held.first_failure.difference or "")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (undo_permutation, r"blk\.0\.attn_q\.weight: its rows .* \(and 3 more\)"),
        (lose_a_norm, r"blk\.0\.ffn_norm\.weight: all ones"),
        (shift_a_norm, r"blk\.0\.attn_norm\.weight: off by one"),
        (turn_the_output, r"output\.weight: differs by .* its embedding stands for it"),
        (swap_rare_tokens, r"token 353 is .* in the checkpoint, .* in the GGUF"),
        (lose_a_merge, r"merges are lost or added at the end: of \d+ in the checkpoint"),
    ],
)
def test_the_wrong_tensor_is_named(
    tiny: Exports,
    client: Client,
    created: Callable[[GGUFFile, Modelfile], str],
    tmp_path: Path,
    damage: Callable[[Path], None],
    words: str,
) -> None:
    """With the checkpoint at hand, the file of the daemon is compared tensor by tensor."""
    bad = damaged(tiny.gguf("q8_0" if damage is lose_a_norm else "f16"), tmp_path / "bad", damage)
    tag = created(bad, modelfile_of(bad, "Be brief."))
    certificate = verify_tag(tag, client=client, against=tiny.checkpoint)
    assert certificate.first_failure is not None
    assert re.search(words, certificate.first_failure.difference or "")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("attention.layer_norm_rms_epsilon", 1e-5, "1e-05 in the GGUF, config.json makes it 1e-06"),
        ("rope.scaling.original_context_length", 256, "256 in the GGUF, config.json makes it 128"),
    ],
)
def test_a_number_that_no_answer_shows_is_named(
    client: Client,
    created: Callable[[GGUFFile, Modelfile], str],
    tmp_path: Path,
    key: str,
    value: float,
    said: str,
) -> None:
    """The tag carries what its checkpoint's config makes of it."""
    checkpoint = with_reference_values(
        resolve_model(
            str(build_checkpoint("qwen2-yarn", tmp_path / "source")), cache_dir=tmp_path / "cache"
        ),
        system="Be brief.",
        out_dir=tmp_path / "checkpoint",
    )
    good = convert(checkpoint, type="f16", out_dir=tmp_path / "good")

    def damage(path: Path) -> None:
        change_metadata(path, lambda keys: keys.update({f"qwen2.{key}": value}))

    bad = damaged(good, tmp_path / "bad", damage)
    certificate = verify_tag(created(bad, modelfile_of(bad, "Be brief.")), client=client)
    failed = [check for check in certificate.checks if not check.passed]
    assert failed[0].name == "metadata"
    assert failed[0].difference == f"qwen2.{key}: {said}"


def test_a_window_that_no_probe_reaches_is_named(
    client: Client, created: Callable[[GGUFFile, Modelfile], str], tmp_path: Path
) -> None:
    """All answers are right; the numbers that the tag carries tell, and so does the checkpoint."""
    sizes = {"max_position_embeddings": 4096}
    source = build_checkpoint("gemma2", tmp_path / "source", sizes=sizes)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "sliding_window": 2048}))
    checkpoint = with_reference_values(
        resolve_model(str(source), cache_dir=tmp_path / "cache"),
        system="Be brief.",
        out_dir=tmp_path / "checkpoint",
    )
    good = convert(checkpoint, type="f16", out_dir=tmp_path / "good")
    bad = damaged(good, tmp_path / "bad", halve_a_window_of_2048)
    tag = created(bad, modelfile_of(bad, "Be brief."))
    for against in (None, checkpoint):
        failure = verify_tag(tag, client=client, against=against).first_failure
        assert failure is not None
        assert failure.name == "metadata"
        assert failure.difference == (
            "gemma2.attention.sliding_window: 1024 in the GGUF, config.json makes it 2048"
        )


def test_a_tied_matrix_may_be_written_twice(
    tiny: Exports,
    client: Client,
    created: Callable[[GGUFFile, Modelfile], str],
    tmp_path: Path,
) -> None:
    """As other converters do: the tag is proven, and the certificate says it."""
    twice = damaged(tiny.gguf("f16"), tmp_path / "twice", repeat_the_embedding)
    tag = created(twice, modelfile_of(twice, "Be brief."))
    certificate = verify_tag(tag, client=client, against=tiny.checkpoint)
    assert certificate.passed, certificate.first_failure
    tensors = next(check for check in certificate.checks if check.name == "tensors")
    assert str(tensors.numbers["note"]).startswith("output.weight: a copy of the embedding")


def test_the_command_tells_by_its_exit_code(
    tiny: Exports, daemon: PrivateDaemon, created: Callable[[GGUFFile, Modelfile], str]
) -> None:
    """0 and a table for a good tag; 5, the layer and what to do for a bad one; JSON of both."""
    gguf = tiny.gguf("f16")
    modelfile = modelfile_of(gguf, "Be brief.")
    tag = created(gguf, modelfile)
    good = verify_command(tag, daemon)
    assert good.returncode == 0, good.stderr
    assert re.search(r"^rendered prompts\tok\t.*proof rendered text", good.stdout, re.MULTILINE)
    assert re.search(
        r"^log-prob.*, mean kl nats [^,]+ \(bound 0\.001\),", good.stdout, re.MULTILINE
    )
    assert f"{tag}: proven equal" in good.stdout
    assert f"ollama-bridge verify {tag} --against CHECKPOINT" in good.stderr
    assert json.loads(verify_command(tag, daemon, "--json").stdout)["passed"] is True

    created(gguf, without_stop(modelfile))
    bad = verify_command(tag, daemon)
    assert bad.returncode == 5
    assert re.search(r"^stops\tFAILED \(stop\)", bad.stdout, re.MULTILINE)
    assert "no PARAMETER stop for the end token" in bad.stderr
    assert "\nfix: " in bad.stderr
    as_json = verify_command(tag, daemon, "--json")
    assert as_json.returncode == 5
    checks = json.loads(as_json.stdout)["checks"]
    assert [check["layer"] for check in checks if not check["passed"]] == ["stop"]


def verify_command(tag: str, daemon: PrivateDaemon, *options: str) -> CompletedProcess[str]:
    """``ollama-bridge verify`` in a process of its own."""
    words = example("verify review-sentiment", {"review-sentiment": tag})
    return subprocess.run(
        [sys.executable, "-m", "ollama_bridge", *words, "--host", daemon.host, *options],
        capture_output=True,
        text=True,
        check=False,
    )


def without_values(exports: Exports, folder: Path) -> GGUFFile:
    """The F16 export as another converter writes it: without our values."""
    with open_draft(folder / "plain", Work("checkpoint", "test", 1)) as draft:
        for file in exports.checkpoint.path.iterdir():
            if file.name not in ("manifest.json", "reference.json"):
                (draft.path / file.name).write_bytes(file.read_bytes())
        plain = Checkpoint(folder / "plain", draft.commit())
    return convert(plain, type="f16", out_dir=folder / "gguf")
