"""Checkpoints that must not be loaded, and what is said about them."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fakes.ggufs import rewrite
from fakes.json_files import change_json
from safetensors.torch import load_file, save_file

from ollama_bridge.conversion import convert
from ollama_bridge.conversion.tokenizer import TokenizerSection
from ollama_bridge.errors import (
    GGUFError,
    ModelError,
    UnsafeCheckpointError,
    UnsupportedArchitectureError,
)
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.safety import check_folder
from ollama_bridge.models.sources.resolve import resolve_model
from ollama_bridge.reporting import JSONLReporter


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be spoiled."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def change_config(folder: Path, **changes: object) -> None:
    """Rewrite keys of config.json."""
    change_json(folder / "config.json", **changes)


def test_a_good_checkpoint_passes(folder: Path) -> None:
    """The tiny checkpoint is accepted and its config returned."""
    assert check_folder(folder)["num_hidden_layers"] == 2


def test_weights_only_as_pickle_are_refused(folder: Path) -> None:
    """pytorch_model.bin alone is refused with the way out."""
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError, match=r"pytorch_model\.bin") as caught:
        load_model(folder)
    assert "save_pretrained" in str(caught.value.hint)


def test_a_pickle_beside_safetensors_is_not_opened(folder: Path) -> None:
    """Where safetensors are there, a pickle beside them does not matter."""
    expected = load_model(folder).state_dict()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    loaded = load_model(folder).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


def test_what_a_trainer_saves_beside_weights_is_not_taken_for_them(folder: Path) -> None:
    """Settings and optimizer of a training are pickles as well."""
    (folder / "model.safetensors").unlink()
    for name in ("training_args.bin", "optimizer.pt", "rng_state_0.pth", "scheduler.pt"):
        torch.save({}, folder / name)
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        check_folder(folder)


def test_the_last_step_of_a_training_is_offered(folder: Path, tmp_path: Path) -> None:
    """Where only steps were saved, the training's own folder is none."""
    for number in (90, 100):
        shutil.copytree(folder, tmp_path / "run" / f"checkpoint-{number}")
    with pytest.raises(ModelError, match="checkpoint-90, checkpoint-100 in it") as caught:
        check_folder(tmp_path / "run")
    assert str(caught.value.hint).endswith("run/checkpoint-100")


def test_a_gguf_in_a_folder_is_offered(tmp_path: Path) -> None:
    """Unsloth writes GGUF and Modelfile into a folder of their own."""
    (tmp_path / "unsloth.Q4_K_M.gguf").write_bytes(b"GGUF")
    (tmp_path / "Modelfile").write_text("FROM unsloth.Q4_K_M.gguf")
    with pytest.raises(ModelError, match=r"no config\.json") as caught:
        check_folder(tmp_path)
    assert "unsloth.Q4_K_M.gguf" in str(caught.value.hint)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_the_name_of_a_wrapper_is_told(folder: Path, prefix: str) -> None:
    """A model saved through torch.compile, DistributedDataParallel or peft."""

    def wrap(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    rewrite_weights(folder, wrap)
    with pytest.raises(ModelError, match="what wraps it") as caught:
        check_folder(folder)
    assert "save_pretrained" in str(caught.value.hint)


def test_a_long_text_is_no_matter_of_the_users(folder: Path) -> None:
    """transformers would warn of indices beyond ``model_max_length``."""
    tokenizer = load_tokenizer(folder)
    said: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = said.append  # type: ignore[assignment, method-assign]
    logger = logging.getLogger("transformers.tokenization_utils_base")
    logger.addHandler(handler)
    try:
        ids = tokenizer("a " * 600).input_ids
    finally:
        logger.removeHandler(handler)
    assert len(ids) > tokenizer.model_max_length
    assert not said


def test_remote_code_is_refused(folder: Path) -> None:
    """auto_map, which asks for code of the repository, is refused where nothing else would do."""
    change_config(folder, architectures=["OwnForCausalLM"], auto_map={"AutoConfig": "own.Config"})
    with pytest.raises(UnsafeCheckpointError, match="auto_map"):
        load_model(folder)


def test_an_unsupported_architecture_is_named(folder: Path) -> None:
    """The error names the architecture and what is supported."""
    change_config(folder, architectures=["MambaForCausalLM"])
    with pytest.raises(UnsupportedArchitectureError, match=r"MambaForCausalLM.*LlamaForCausalLM"):
        load_model(folder)


def test_a_classifier_is_refused_as_what_it_is(folder: Path) -> None:
    """With what to train in its place."""
    change_config(folder, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(ModelError, match="is a classifier") as caught:
        check_folder(folder)
    assert "ollama-bridge build sentiment --data" in str(caught.value.hint)


def test_a_class_that_training_in_parallel_made(folder: Path) -> None:
    """FSDP 2's, whose name older transformers saved; the model is the same."""
    change_config(folder, architectures=["FSDPLlamaForCausalLM"])
    assert type(load_model(folder)).__name__ == "LlamaForCausalLM"


def test_a_value_head_is_named(folder: Path) -> None:
    """TRL's model with a value head is saved together with it."""
    rewrite_weights(
        folder, lambda tensors: tensors.update({"v_head.summary.weight": torch.ones(1)})
    )
    with pytest.raises(ModelError, match="value head") as caught:
        check_folder(folder)
    assert "pretrained_model" in str(caught.value.hint)


@pytest.mark.parametrize("cut", [0, 4, 100, 5000, -1])
def test_truncated_weights_are_an_error(folder: Path, cut: int) -> None:
    """A safetensors file cut anywhere is a ModelError that names it."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    """Each file that is needed is named when it is not there."""
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        check_folder(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model-00002-of-", "tokenizer.json"]
)
def test_links_that_were_copied_without_their_files(folder: Path, name: str) -> None:
    """A snapshot of the hub's cache, taken to another machine as it lies there."""
    if name.startswith("model-"):
        shard(folder)
    (path,) = folder.glob(f"{name}*")
    path.unlink()
    path.symlink_to("../../blobs/4d7a2146")
    with pytest.raises(ModelError, match=rf"{re.escape(name)}.* is a link to ") as caught:
        check_folder(folder)
    assert "cp -rL" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "model.gguf"])
def test_a_clone_without_git_lfs_is_told_how_to_get_the_rest(
    folder: Path, tmp_path: Path, name: str
) -> None:
    """Git leaves three lines in the place of large files; another clone would leave them again."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    (folder / name).write_text(pointer)
    model = folder / name if name.endswith(".gguf") else folder
    with pytest.raises(ModelError, match=re.escape(name)) as caught:
        resolve_model(str(model), cache_dir=tmp_path / "cache")
    assert f"git -C {shlex.quote(str(folder))} lfs pull" in str(caught.value.hint)


def test_a_sentencepiece_file_alone_is_told_with_what_makes_the_other_of_it(folder: Path) -> None:
    """As the first Llamas were published; no tokenizer is missing, so none has to be looked for."""
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")
    for check in (check_folder, load_tokenizer):
        with pytest.raises(ModelError, match=r"only SentencePiece's tokenizer\.model") as caught:
            check(folder)
        command = shlex.split(str(caught.value.hint).partition("; ")[2])
        assert command[:2] == ["python", "-c"]
        assert f'AutoTokenizer.from_pretrained("{folder}").save_pretrained(' in command[2]
        compile(command[2], "hint", "exec")


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", '"x"'])
def test_a_damaged_config_is_an_error(folder: Path, text: str) -> None:
    """config.json that is not a JSON object is a ModelError."""
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("text", ['"x"', '{"unk_token": "\\ud800"}'])
def test_damaged_settings_of_a_tokenizer_are_named_where_their_owner_has_them(
    folder: Path, tmp_path: Path, name: str, text: str
) -> None:
    """No object, or half of a surrogate pair, which is no text: in the folder, not in our copy."""
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=re.escape(str(folder / name))) as caught:
        resolve_model(str(folder), cache_dir=tmp_path / "cache")
    assert "get the checkpoint's own again" in str(caught.value.hint)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A path that is no folder is a ModelError."""
    with pytest.raises(ModelError, match="not a folder"):
        check_folder(tmp_path / "nothing")


def test_a_damaged_tokenizer_is_an_error(folder: Path) -> None:
    """tokenizer.json that the library refuses is a ModelError."""
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer") as caught:
        load_tokenizer(folder)
    assert "that the model was trained with" in str(caught.value.hint)


def test_a_default_is_wanted_among_several_templates(folder: Path) -> None:
    """Named templates without one that is served where none is asked for."""
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "{{ messages }}"}]
    change_json(path, chat_template=named)
    with pytest.raises(ModelError, match="tool_use"):
        load_tokenizer(folder)
    with pytest.raises(ModelError, match="tool_use"):
        TokenizerSection(folder, {"vocab_size": 384}).entries(chat_template=True)
    named.append({"name": "default", "template": "{{ messages }}"})
    change_json(path, chat_template=named)
    load_tokenizer(folder)


def pack(tensors: dict[str, torch.Tensor]) -> None:
    """One tensor as a quantized checkpoint has it."""
    tensors["model.norm.weight"] = torch.zeros(64, dtype=torch.uint8)


def test_quantized_checkpoints_are_refused(folder: Path) -> None:
    """A checkpoint quantized by GPTQ or the like is refused by the method's name."""
    change_config(folder, quantization_config={"quant_method": "gptq"})
    rewrite_weights(folder, pack)
    with pytest.raises(ModelError, match="gptq") as caught:
        check_folder(folder)
    assert "16 bits" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("left", "named"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": 1}, "bitsandbytes"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"group_size": 64, "bits": 4}, "unknown method"),  # of mlx_lm.fuse --dequantize
    ],
)
def test_settings_that_a_training_in_4_bits_left(
    folder: Path, tmp_path: Path, left: dict[str, object], named: str
) -> None:
    """Merged weights are whole, whatever the config still says: transformers would round them."""
    expected = load_model(folder).state_dict()
    change_config(folder, quantization_config=left)
    with JSONLReporter(tmp_path / "events.jsonl") as reporter:
        checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache", reporter=reporter)
    assert "the weights are whole" in (tmp_path / "events.jsonl").read_text()
    for name, tensor in load_model(checkpoint.path).state_dict().items():
        assert torch.equal(expected[name], tensor)
    again = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    assert again.digest == checkpoint.digest
    rewrite_weights(folder, pack)
    with pytest.raises(ModelError, match=rf"quantized \({named}\)"):
        resolve_model(str(folder), cache_dir=tmp_path / "cache")


def test_whole_weights_that_are_rounded_when_they_are_used_are_quantized(
    folder: Path, tmp_path: Path
) -> None:
    """BitNet in its online form: without the setting it would be another model."""
    change_config(folder, quantization_config={"quant_method": "bitnet"})
    with pytest.raises(ModelError, match=r"quantized \(bitnet\)"):
        resolve_model(str(folder), cache_dir=tmp_path / "cache")


def test_missing_tensors_are_an_error(folder: Path) -> None:
    """A config that asks for more layers than there are weights is an error, not a random layer."""
    change_config(folder, num_hidden_layers=3)
    with pytest.raises(ModelError, match="missing"):
        load_model(folder)


def test_left_over_tensors_are_an_error(folder: Path) -> None:
    """Weights that the config does not use are an error."""
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(ModelError, match="left over"):
        load_model(folder)


def test_an_index_may_not_leave_the_folder(folder: Path) -> None:
    """A shard index that names a path outside of the folder is refused."""
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="outside"):
        check_folder(folder)


def test_shards_are_read_like_one_file(folder: Path) -> None:
    """A checkpoint in shards loads the same weights."""
    model = load_model(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    again = load_model(folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def shard(folder: Path) -> list[Path]:
    """The weights in several files."""
    model = load_model(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    return sorted(folder.glob("model-*.safetensors"))


def rewrite_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of model.safetensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_decoder_without_its_output_layer_is_named(folder: Path) -> None:
    """Saved by AutoModel, which leaves the first part of every name out."""

    def strip(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("model.")]:
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    rewrite_weights(folder, strip)
    with pytest.raises(ModelError, match="saved by AutoModel") as caught:
        check_folder(folder)
    assert "AutoModelForCausalLM" in str(caught.value.hint)


def test_what_answers_no_texts_is_refused_by_what_it_is(folder: Path, tmp_path: Path) -> None:
    """A tag of an embedding model would answer: what it does with vectors is not converted."""
    checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
    plain = convert(checkpoint, type="f16", out_dir=tmp_path / "gguf").gguf_path
    pooled = tmp_path / "pooled.gguf"
    rewrite(plain, pooled, metadata=lambda keys: keys.update({"llama.pooling_type": 3}))
    with pytest.raises(GGUFError, match="is an embedding model"):
        resolve_model(str(pooled), cache_dir=tmp_path / "cache")
    lora = tmp_path / "lora.gguf"
    rewrite(plain, lora, metadata=lambda keys: keys.update({"general.type": "adapter"}))
    with pytest.raises(GGUFError, match="is a LoRA adapter") as caught:
        resolve_model(str(lora), cache_dir=tmp_path / "cache")
    assert "--base MODEL" in str(caught.value.hint)
    modules = [{"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="is an embedding model"):
        check_folder(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    """A file that the index names and that is not there."""
    gone = shard(folder)[1]
    gone.unlink()
    with pytest.raises(ModelError, match=gone.name):
        check_folder(folder)


def test_a_wrong_shape_is_named_before_anything_is_loaded(folder: Path) -> None:
    """Tensor, file and both shapes are in the error."""
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite_weights(folder, lambda tensors: tensors.update({name: torch.zeros(3, 64)}))
    with pytest.raises(ModelError, match=rf"model\.safetensors.*{name}.*\(3, 64\).*\(128, 64\)"):
        check_folder(folder)


@pytest.mark.parametrize("wrapped", [False, True])
def test_layers_that_are_not_there_cost_nothing(folder: Path, wrapped: bool) -> None:
    """A few digits, of which lists were made until memory ended."""
    many = {"num_hidden_layers": 10**9}
    change_config(folder, **({"model_type": "gemma3", "text_config": many} if wrapped else many))
    with pytest.raises(ModelError, match=r"says 1000000000 layers, and there are \d+ tensors"):
        check_folder(folder)


def test_weights_without_a_tensor_are_an_error(folder: Path) -> None:
    """A file that is whole and empty."""
    save_file({}, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors.* there are 0 tensors"):
        check_folder(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(ModelError, match="names no file"):
        check_folder(folder)


def test_a_tensor_in_no_shard_is_named(folder: Path) -> None:
    """A shard that has lost a tensor."""
    path = next(path for path in shard(folder) if "model.norm.weight" in load_file(path))
    tensors = load_file(path)
    tensors.pop("model.norm.weight")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        check_folder(folder)


def test_a_tensor_in_two_shards_is_named(folder: Path) -> None:
    """Of two trainings, or of one that was gathered twice: there is no telling which is right."""
    first, second = shard(folder)[:2]
    name, values = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: values + 1}, second, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{re.escape(name)}' is in .* and .*") as caught:
        check_folder(folder)
    assert "again" in str(caught.value.hint)


def test_weights_that_are_not_finite_are_named(folder: Path) -> None:
    """A diverged training is told by the tensor, not by answers of noise."""
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite_weights(folder, lambda tensors: tensors[name][0].fill_(float("nan")))
    with pytest.raises(ModelError, match=rf"{name}.*not finite"):
        load_model(folder)


def test_a_tied_matrix_may_be_stored_twice(folder: Path) -> None:
    """Some savers write the output matrix too; some do not."""

    def double(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    rewrite_weights(folder, double)
    check_folder(folder)
    model = load_model(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_matrices_that_are_not_tied_as_the_config_says(folder: Path) -> None:
    """transformers 4 would serve one of them twice, transformers 5 both: the user has to say."""

    def untie(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 1.5

    rewrite_weights(folder, untie)
    with pytest.raises(ModelError, match=r"'lm_head\.weight' is the embedding.*other") as caught:
        check_folder(folder)
    assert '"tie_word_embeddings": false' in (caught.value.hint or "")
    change_config(folder, tie_word_embeddings=False)
    model = load_model(folder)
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_only_the_output_matrix_of_a_tied_pair(folder: Path) -> None:
    """What sharded savers may keep: its name is wrong, and saving it again mends that."""

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    rewrite_weights(folder, rename)
    with pytest.raises(ModelError, match=r"embed_tokens\.weight' is missing") as caught:
        check_folder(folder)
    assert "save_pretrained" in (caught.value.hint or "")


def test_nothing_is_kept_of_a_refused_checkpoint(folder: Path, tmp_path: Path) -> None:
    """The cache stays as it was."""
    rewrite_weights(folder, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ModelError, match="missing"):
        resolve_model(str(folder), cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("change", [{"use_cache": None}, {"initializer_range": 1}])
@pytest.mark.parametrize("is_quantized", [False, True])
def test_a_config_that_transformers_refuses_is_named(
    folder: Path, tmp_path: Path, change: dict[str, object], *, is_quantized: bool
) -> None:
    """Its error is no ValueError; sizes, which are checked before, are right."""
    if is_quantized:
        checkpoint = resolve_model(str(folder), cache_dir=tmp_path / "cache")
        gguf = convert(checkpoint, type="q8_0", out_dir=tmp_path / "gguf").gguf_path
        folder = resolve_model(str(gguf), cache_dir=tmp_path / "cache").path
    change_config(folder, **change)
    check_folder(folder)
    with pytest.raises(ModelError, match=r"config\.json cannot be read by transformers") as caught:
        load_model(folder)
    assert next(iter(change)) in caught.value.message
    assert caught.value.hint
