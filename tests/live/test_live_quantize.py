"""Quantized files in a real daemon, and beside those of llama.cpp's own tool."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.exports import SYSTEM, Exports, damaged, modelfile_of, undo_permutation
from fakes.mixes import MIXES, QUANTIZED, TABLE, chosen_by_llama_quantize, compact, write_empty
from gguf import GGUFReader
from gguf.quants import dequantize
from llama_quantize import find_tool

from ollama_bridge.client import Client
from ollama_bridge.conversion import Target, convert
from ollama_bridge.conversion.importance import importance
from ollama_bridge.data.prepare import prepare
from ollama_bridge.errors import ParityError
from ollama_bridge.examples import read_examples
from ollama_bridge.models.load import load_model, load_tokenizer
from ollama_bridge.models.sources.gguf_import import import_gguf
from ollama_bridge.recipe.loading import load_recipe
from ollama_bridge.registration import register
from ollama_bridge.storage.artifacts import Checkpoint, Corpus
from ollama_bridge.verify.bounds import recorded_noise

pytestmark = pytest.mark.live

# Of real text: on fifty, two files of one mix may lie a tenth apart by chance. On these ours were
# seen at 1.00 times the KL of llama-quantize's.
POSITIONS = 600
NOT_WORSE = 1.02


@pytest.mark.parametrize("gguf_type", ["q5_k_m", "q4_k_m", "q4_0"])
def test_a_quantized_model_is_registered_and_answers(
    smollm: Exports, client: Client, tmp_path: Path, gguf_type: str
) -> None:
    """Each type passes its proof, is shown as what it is, and answers."""
    gguf = smollm.gguf(gguf_type)
    tag = f"live-quantize:{gguf_type}"
    model = register(gguf, modelfile_of(gguf, SYSTEM), tag, client=client, out_dir=tmp_path / "tag")
    assert model.facts["passed"]
    details = client.show(tag).raw["details"]
    assert details["quantization_level"].lower() == gguf_type
    options = {"temperature": 0.0, "num_predict": 24}
    assert "Paris" in client.chat(tag, "What is the capital of France?", options=options).text


@pytest.mark.parametrize("gguf_type", ["q4_k_m", "q4_0"])
def test_a_wrong_quantized_model_is_refused(
    smollm: Exports, client: Client, tmp_path: Path, gguf_type: str
) -> None:
    """Rows of q and k in the wrong order are found however coarse the type."""
    good = smollm.gguf(gguf_type)
    bad = damaged(good, tmp_path / "bad", undo_permutation)
    with pytest.raises(ParityError, match="no tag was made") as caught:
        register(
            bad,
            modelfile_of(good, SYSTEM),
            f"live-quantize:bad-{gguf_type}",
            client=client,
            out_dir=tmp_path / "tag",
        )
    # Four bits without a mix move the small model so far that the reason cannot be told.
    assert caught.value.layer in (("tensor", "rounding") if gguf_type == "q4_0" else ("tensor",))


@pytest.mark.parametrize("case", MIXES)
def test_the_table_of_types_is_llama_quantizes(
    case: str, tmp_path: Path, caches: dict[str, str]
) -> None:
    """What the fast tests hold our mixes against is what the tool says today."""
    tool = find_tool(caches)
    write_empty(case, tmp_path / "empty.gguf")
    expected = json.loads(TABLE.read_text())[case]
    for file_type in QUANTIZED:
        chosen = chosen_by_llama_quantize(tool, tmp_path / "empty.gguf", file_type)
        assert compact(chosen) == expected[file_type], file_type


def types_of(path: Path) -> dict[str, str]:
    """Type of every tensor."""
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


def relative_errors(path: Path, exact: Path) -> Counter[str]:
    """Mean square errors of tensors, as a part of their mean square, summed by their type."""
    wanted = {tensor.name: tensor.data for tensor in GGUFReader(exact).tensors}
    errors: Counter[str] = Counter()
    for tensor in GGUFReader(path).tensors:
        if tensor.tensor_type.name != "F32":
            values = wanted[tensor.name].reshape(-1, wanted[tensor.name].shape[-1])
            back = dequantize(tensor.data, tensor.tensor_type).reshape(values.shape)
            error = float(np.square(back - values).mean() / np.square(values).mean())
            errors[tensor.tensor_type.name] += error
    return errors


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Real sentences, those of a recipe."""
    recipe = load_recipe("sentiment-quick")
    folder = tmp_path_factory.mktemp("corpus") / "corpus"
    return prepare(recipe.data, recipe.task, seed=recipe.seed, out_dir=folder)


def divergences(
    checkpoint: Checkpoint, files: Sequence[Path], corpus: Corpus, folder: Path
) -> list[float]:
    """Mean KL(exact || what each file's weights give) over held-out text, in nats."""
    examples = read_examples(corpus.split_path("test"))
    said = [one.content for example in examples for one in example.messages if one.role == "user"]
    ids = load_tokenizer(checkpoint.path)("\n".join(said), return_tensors="pt")["input_ids"]
    ids = ids[:, :POSITIONS]
    assert ids.shape[1] == POSITIONS
    found = []
    with torch.inference_mode():
        exact = load_model(checkpoint.path)(ids).logits.log_softmax(-1)
        for number, path in enumerate(files):
            import_gguf(path, folder / str(number))
            logprobs = load_model(folder / str(number))(ids).logits.log_softmax(-1)
            found.append(float((exact.exp() * (exact - logprobs)).sum(-1).mean()))
    return found


def test_no_further_from_the_model_than_llama_quantize(
    smollm: Exports, corpus: Corpus, tmp_path: Path, caches: dict[str, str]
) -> None:
    """Same source, same mix: the same types, no larger errors in one of them, no larger KL."""
    tool = find_tool(caches)
    exact, ours = smollm.gguf("f32").gguf_path, smollm.gguf("q4_k_m").gguf_path
    theirs = tmp_path / "theirs.gguf"
    subprocess.run([tool, exact, theirs, "q4_k_m"], check=True, capture_output=True)
    assert types_of(ours) == types_of(theirs)
    left, right = relative_errors(ours, exact), relative_errors(theirs, exact)
    assert {"Q4_K", "Q6_K"} <= set(left)
    for name, error in left.items():
        assert error <= 1.001 * right[name], name
    found, reference = divergences(smollm.checkpoint, (ours, theirs), corpus, tmp_path)
    assert found <= NOT_WORSE * reference


def test_no_further_than_llama_quantize_with_the_same_importance(
    smollm: Exports, corpus: Corpus, tmp_path: Path, caches: dict[str, str]
) -> None:
    """llama.cpp's tool reads the matrix that we measured, and comes no closer with it."""
    tool = find_tool(caches)
    imatrix = importance(
        smollm.checkpoint, corpus, max_tokens=4000, out_dir=tmp_path / "importance"
    ).imatrix_path
    ours = convert(
        smollm.checkpoint, type="q4_k_m", imatrix=imatrix, out_dir=tmp_path / "ours"
    ).gguf_path
    theirs = tmp_path / "theirs.gguf"
    command = [tool, "--imatrix", imatrix, smollm.gguf("f32").gguf_path, theirs, "q4_k_m"]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    without = re.findall(r"did not find weights for (\S+)", said.stdout + said.stderr)
    assert set(without) == {"token_embd.weight"}  # looked up, multiplied with nothing
    assert types_of(ours) == types_of(theirs)
    assert ours.read_bytes() != smollm.gguf("q4_k_m").gguf_path.read_bytes()
    found, reference = divergences(smollm.checkpoint, (ours, theirs), corpus, tmp_path)
    assert found <= NOT_WORSE * reference


@pytest.mark.slow
def test_a_file_of_a_size_is_proven_by_its_own_noise(
    smollm: Exports, client: Client, tmp_path: Path
) -> None:
    """Types chosen by measurement: no larger than the mix, closer to the model, and proven."""
    mix = smollm.gguf("q4_k_m")
    gguf = convert(
        smollm.checkpoint,
        target=Target(size_bytes=mix.facts["size_bytes"], positions=96),
        out_dir=tmp_path / "gguf",
    )
    assert gguf.facts["size_bytes"] <= mix.facts["size_bytes"]
    presets = {one["name"]: one["kl_nats"] for one in gguf.facts["budget"]["presets"]}
    assert gguf.facts["budget"]["kl_nats"] < presets["q4_k_m"]
    model = register(
        gguf,
        modelfile_of(gguf, SYSTEM),
        "live-quantize:budget",
        client=client,
        out_dir=tmp_path / "tag",
    )
    assert model.facts["passed"]
    certificate = json.loads((model.path / "certificate.json").read_text())
    metadata = client.show("live-quantize:budget", verbose=True).model_info
    recorded = recorded_noise(metadata)
    assert recorded is not None
    # A daemon was seen at up to 1.6 times the estimate with presets; a fifth is left for chance.
    scores = next(check for check in certificate["checks"] if "mean_kl_nats" in check["numbers"])
    assert scores["numbers"]["mean_kl_nats"] < max(0.01, 1.8 * recorded.mean_kl_nats)
