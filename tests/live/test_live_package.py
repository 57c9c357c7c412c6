"""`package`: checkpoints of other tools, as their trainers leave them behind."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes.adapters import change_settings, with_new_adapter
from fakes.architectures import WIDE, build_checkpoint
from fakes.command_line import example, run_in_process
from fakes.endings import answer_and_end, rename_tokens, set_ends
from fakes.private_daemon import PrivateDaemon
from fakes.real_registry import RealRegistry
from fakes.terminal import interrupt
from peft import LoraConfig
from safetensors.torch import load_file
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from ollama_bridge.client import Client
from ollama_bridge.conversion import Target, convert
from ollama_bridge.errors import RegistryError
from ollama_bridge.inspection import verify
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.packaging.package import package
from ollama_bridge.publishing.papers import CARD_NAME
from ollama_bridge.publishing.retrieval import pull
from ollama_bridge.storage.artifacts import GGUFFile

pytestmark = pytest.mark.live


def state_of_a_trainer(folder: Path) -> None:
    """What a Trainer saves beside the weights, which must never be opened."""
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(b"a pickle")
    (folder / "trainer_state.json").write_text('{"global_step": 100}')


def trl_step(folder: Path) -> Path:
    """A step of TRL's SFTTrainer: bfloat16, its state, and a tokenizer that still pads and cuts."""
    step = build_checkpoint("qwen2", folder / "run" / "checkpoint-100")
    model = load_model(step, dtype=torch.bfloat16)
    model.save_pretrained(step)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(step)
    tokenizer("Hello", padding="max_length", max_length=16, truncation=True)
    tokenizer.save_pretrained(step)
    assert json.loads((step / "tokenizer.json").read_text())["truncation"]
    state_of_a_trainer(step)
    return step


def unsloth_merge(folder: Path) -> Path:
    """Unsloth's merged_16bit: shards, a Modelfile of its own, older names in the config."""
    source = build_checkpoint("llama", folder / "merged")
    model = load_model(source, dtype=torch.float16)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="100KB")
    config = json.loads((source / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config |= {"rope_scaling": None, "unsloth_version": "2026.1", "unsloth_fixed": True}
    (source / "config.json").write_text(json.dumps(config))
    (source / "Modelfile").write_text("FROM ./unsloth.Q8_0.gguf\nPARAMETER temperature 1.5\n")
    template = (source / "chat_template.jinja").read_text()
    (source / "chat_template.jinja").unlink()
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(
        json.dumps({**settings, "chat_template": template})
    )
    return source


def grown_adapter(folder: Path) -> Path:
    """LLaMA-Factory's adapter with new tokens on a tied base, beside which it lies."""
    base = build_checkpoint("llama", folder / "base")
    adapter = folder / "adapter"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|call|>", "<|result|>"]})
    model = load_model(base)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about ties, and that embeddings are saved
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        config = LoraConfig(
            r=4,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            modules_to_save=["embed_tokens"],
            ensure_weight_tying=True,
        )
        tuned = with_new_adapter(model, config)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter) * 0.05)
        tuned.save_pretrained(adapter, save_embedding_layers=True)
    tokenizer.save_pretrained(adapter)
    change_settings(adapter, base_model_name_or_path="../base")
    state_of_a_trainer(adapter)
    return adapter


def padded_adapter(folder: Path) -> Path:
    """TRL's save_model of LoRA with new tokens: both matrices saved, their rows padded to 64."""
    base = build_checkpoint("mistral", folder / "base")
    adapter = folder / "out"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|call|>", "<|result|>"]})
    model = load_model(base)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that embeddings are saved
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
        config = LoraConfig(
            r=4,
            use_rslora=True,
            target_modules=["q_proj", "v_proj", "down_proj"],
            task_type="CAUSAL_LM",
            modules_to_save=["embed_tokens", "lm_head"],
        )
        tuned = with_new_adapter(model, config)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter) * 0.05)
        tuned.save_pretrained(adapter)
    tokenizer.save_pretrained(adapter)
    assert load_file(adapter / "adapter_model.safetensors")[
        "base_model.model.lm_head.weight"
    ].shape == (448, 64)
    change_settings(adapter, base_model_name_or_path=str(base))
    state_of_a_trainer(adapter)
    return adapter


def merge_after_4_bits(folder: Path) -> Path:
    """Unsloth's merge of a model that was loaded in 4 bits: a pad token more, no dtype."""
    source = build_checkpoint("qwen3", folder / "merged")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    tokenizer.add_special_tokens({"pad_token": "<|PAD_TOKEN|>"})
    tokenizer.padding_side = "left"
    model = load_model(source, dtype=torch.bfloat16)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(source)
    tokenizer.save_pretrained(source)
    config = json.loads((source / "config.json").read_text())
    del config["dtype"]
    config["quantization_config"] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": "bfloat16",
    }
    (source / "config.json").write_text(json.dumps(config))
    return source


# The way in which LLaMA-Factory writes its formats down, with a system prompt of their own.
_FACTORY_TEMPLATE = (
    "{% set preamble = 'You are a helper of the factory.' %}"
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set preamble = messages[0]['content'] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% if preamble is defined %}{{ '<|im_start|>system\\n' + preamble + '<|im_end|>\\n' }}"
    "{% endif %}{% for message in rest %}{% set said = message['content'] %}"
    "{% if message['role'] == 'user' %}"
    "{{ '<|im_start|>user\\n' + said + '<|im_end|>\\n<|im_start|>assistant\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ said + '<|im_end|>' + '\\n' }}{% endif %}"
    "{% endfor %}"
)


def factory_export(folder: Path) -> Path:
    """LLaMA-Factory's export: a chat template of its own, sampling, a Modelfile, odd settings."""
    source = build_checkpoint("llama-biases", folder / "export")
    (source / "chat_template.jinja").write_text(_FACTORY_TEMPLATE)
    sampling = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    generation = {**sampling, "repetition_penalty": 1.05, "eos_token_id": [2, 1]}
    (source / "generation_config.json").write_text(json.dumps(generation))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    settings |= {"padding_side": "right", "split_special_tokens": False}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    (source / "Modelfile").write_text('FROM .\nTEMPLATE """{{ .Prompt }}"""\n')
    return source


def chat_format_of_trl(folder: Path) -> Path:
    """TRL's setup_chat_format: another BOS than the tokenizer goes on adding; EOS added, too."""
    source = build_checkpoint("llama", folder / "out")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|im_end|>",
        special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 2)],
    )
    tokenizer.save(str(source / "tokenizer.json"))
    (source / "chat_template.jinja").write_text(
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    assert load_tokenizer(source)("Hi").input_ids[0] != load_tokenizer(source).bos_token_id
    return source


@pytest.mark.parametrize(
    "make",
    [
        *(trl_step, unsloth_merge, grown_adapter),
        *(padded_adapter, merge_after_4_bits, factory_export, chat_format_of_trl),
    ],
)
def test_what_another_tool_trained_is_served(
    make: Callable[[Path], Path],
    daemon: PrivateDaemon,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Each folder becomes a proven tag, with nothing done to it by hand."""
    source = make(tmp_path)
    model = package(str(source), f"live-{make.__name__}", gguf_type="f16", host=daemon.host)
    assert model.facts["passed"]
    card = model.path.with_name(CARD_NAME).read_text(encoding="utf-8")
    assert f"ollama run {model.tag}" in card
    assert "Proven equal to its checkpoint" in card
    if make is factory_export:
        shown = daemon.client().show(model.tag)
        assert re.search(r"temperature +0\.7\b", shown.parameters)
        assert "You are a helper of the factory." in daemon.client().render(model.tag, "Hi")
    if make is padded_adapter:
        names = {
            "my-model": model.tag,
            "./my-adapter": str(source),
            "./unquantized-base": str(tmp_path / "base"),
        }
        line = example("verify my-model --against ./my-adapter --base ./unquantized-base", names)
        done = run_in_process(monkeypatch, [*line, "--host", daemon.host])
        assert (done.code, "proven equal" in done.stdout) == (0, True), done.stderr
    daemon.client().delete(model.tag)


def chat_of_a_base(folder: Path) -> tuple[Path, str]:
    """TRL's first example: a base model that ends texts, taught a format that ends turns."""
    source = build_checkpoint("mistral", folder / "base")
    rename_tokens(source, {"<|im_end|>": "<|over|>", "<|endoftext|>": "<|text over|>"})
    set_ends(source, eos="<|text over|>", generation=0)
    return source, "<|over|>"


def chat_with_ends(folder: Path) -> tuple[Path, str]:
    """Ends of its own names, as GLM has them, of which a turn's is not the first."""
    source = build_checkpoint("mistral", folder / "ends")
    rename_tokens(source, {"<|im_end|>": "<|over|>", "<|endoftext|>": "<|asks back|>"})
    set_ends(source, eos="<|over|>", generation=[2, 0])
    return source, "<|asks back|>"


def chat_in_tags(folder: Path) -> tuple[Path, str]:
    """A prompt ends with a tag, as those do that open a thought; here every answer begins so."""
    source = build_checkpoint("mistral", folder / "tags")
    (source / "chat_template.jinja").write_text(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return source, "<|im_end|>"


@pytest.mark.parametrize("make", [chat_of_a_base, chat_with_ends, chat_in_tags])
def test_a_daemon_ends_at_every_end(
    make: Callable[[Path], tuple[Path, str]], client: Client, daemon: PrivateDaemon, tmp_path: Path
) -> None:
    """At a token that is not the tokenizer's eos, and without a PARAMETER stop that says so."""
    source, end = make(tmp_path)
    answer_and_end(source, "Good", end)
    model = package(str(source), f"live-{make.__name__}", gguf_type="f16", host=daemon.host)
    assert model.facts["passed"]
    reply = client.chat(model.tag, "Hi", options={"stop": [], "num_predict": 8})
    assert (reply.text, reply.thinking, reply.done_reason) == ("Good", "", "stop")
    client.delete(model.tag)


def test_a_tag_of_a_bare_tag_is_left_as_ollama_runs_it(
    client: Client, daemon: PrivateDaemon, tmp_path: Path
) -> None:
    """Proven without a PARAMETER of ours, and again by whoever has the tag alone."""
    source = build_checkpoint("qwen2", tmp_path / "source")
    checkpoint = resolve_model(str(source), cache_dir=tmp_path / "cache")
    gguf = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf")
    client.upload_blob(gguf.gguf_path, gguf.blob_digest)
    client.create({"model": "live-bare", "files": {"model.gguf": gguf.blob_digest}})
    model = package("ollama:live-bare", "live-bare:q8", gguf_type="q8_0", host=daemon.host)
    assert model.facts["passed"]
    lines = [line.split() for line in client.show(model.tag).parameters.splitlines()]
    set_there = {name: value for name, value in lines if name != "stop"}
    assert set_there == {"num_predict": "-1", "repeat_penalty": "1", "temperature": "0.8"}
    assert verify(model.tag, host=daemon.host).passed
    client.delete(model.tag)
    client.delete("live-bare")


def test_a_size_is_packaged_and_proven(
    daemon: PrivateDaemon, client: Client, tmp_path: Path, *, keeps_files: bool
) -> None:
    """Types by measurement, in one verb; the daemon has the very file."""
    source = build_checkpoint("llama", tmp_path / "source", sizes=WIDE)
    limit_bytes = int(0.4 * (source / "model.safetensors").stat().st_size)
    model = package(
        str(source),
        "live-package-size",
        target=Target(size_bytes=limit_bytes, positions=64),
        out_dir=tmp_path / "run",
        host=daemon.host,
    )
    gguf = GGUFFile.open(tmp_path / "run" / "gguf-budget")
    assert model.facts["passed"]
    assert gguf.gguf_path.stat().st_size <= limit_bytes
    assert (gguf.blob_digest.replace(":", "-") in client.show(model.tag).modelfile) == keeps_files
    client.delete(model.tag)


def test_examples_do_what_they_show(
    registry_binary: Path,
    daemon: PrivateDaemon,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From a folder to a registry and back, each line as the help has it."""
    build_checkpoint("llama", tmp_path / "my-finetune")
    (tmp_path / "LICENSE").write_text("Do as you like.\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_HOST", daemon.host)

    def run(words: list[str]) -> str:
        done = run_in_process(monkeypatch, words)
        assert done.code == 0, done.stderr
        return done.stdout

    with RealRegistry(registry_binary, tmp_path / "registry") as registry:
        reference = f"{registry.host}/team/shown:1"
        names = {"my-model": "live-shown", "localhost:5000/team/my-model:1": reference}
        run(example("package ./my-finetune my-model --type q8_0", names))
        run(example("verify my-model --against ./my-finetune", names))
        run(example("publish my-model localhost:5000/team/my-model:1 --license LICENSE", names))
        client.delete("live-shown")
        pulled = run(example("pull localhost:5000/team/my-model:1 --as my-model", names))
    assert pulled.startswith("live-shown:latest: sha256:")
    assert client.show("live-shown").raw["license"] == "Do as you like.\n"
    for model in client.list():
        if model.name in ("live-shown:latest", reference):
            client.delete(model.name)


def test_ctrl_c_on_the_way(
    registry_binary: Path, daemon: PrivateDaemon, client: Client, tmp_path: Path
) -> None:
    """In mid-upload, mid-proof and mid-publishing: no half tag, and the same command goes on."""
    tag = "live-interrupted:latest"
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "initializer_range": 0.05}
    source = build_checkpoint("llama", tmp_path / "source", sizes=sizes)  # 31 MB: four pieces

    def blobs() -> set[Path]:
        return set((daemon.models_dir / "blobs").glob("sha256-*"))

    before = blobs()

    def uploading() -> bool:
        return bool(blobs() - before)

    def proving() -> bool:
        return any("candidate" in model.name for model in client.list())

    with RealRegistry(registry_binary, tmp_path / "registry") as registry:
        reference = f"{registry.host}/team/interrupted:1"
        command = ("package", str(source), tag, "--type", "f32", "--no-link")
        command = (*command, "--publish", reference)
        for moment in (uploading, proving):
            interrupt(*command, when=moment, waits=False, OLLAMA_HOST=daemon.host)
            assert tag not in {model.name for model in client.list()}
            assert not proving()
        interrupt(
            *command,
            when=lambda: bool(registry.asked("PATCH")),
            waits=False,
            OLLAMA_HOST=daemon.host,
        )
        with pytest.raises(RegistryError, match="404"):
            pull(reference, host=daemon.host)
        kept = next(model.digest for model in client.list() if model.name == tag)
        model = package(
            str(source),
            tag,
            gguf_type="f32",
            link=False,
            publish_to=reference,
            host=daemon.host,
        )
        assert model.facts["passed"]
        assert model.facts["tag_digest"] == kept  # the proof that was done is not done again
        assert pull(reference, host=daemon.host).tag == reference
    for name in (tag, reference):
        client.delete(name)
