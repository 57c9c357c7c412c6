"""Folders whose weights are not, or not all, in the files that transformers reads."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint
from accelerate.utils import merge_fsdp_weights
from fakes.models import build_tiny_model

from ollama_bridge.errors import ModelError
from ollama_bridge.models.load import load_model
from ollama_bridge.models.safety import check_folder
from ollama_bridge.models.weights.files import weights_files


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A step of a training, without its weights."""
    step = tmp_path / "the run" / "checkpoint-10"
    shutil.copytree(tiny_checkpoint, step)
    (step / "model.safetensors").unlink()
    return step


def save_pieces(folder: Path) -> None:
    """Model and optimizer, as accelerate has torch.distributed save what FSDP trains."""
    state = build_tiny_model().state_dict()
    for name, value in (("pytorch_model_fsdp_0", state), ("optimizer_0", {"step": torch.ones(1)})):
        torch.distributed.checkpoint.save(
            {"model": value}, checkpoint_id=str(folder / name), no_dist=True
        )


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_pieces_of_fsdp_are_gathered_by_the_command_that_is_named(
    folder: Path, tiny_checkpoint: Path
) -> None:
    """What accelerate's command does makes a checkpoint of it."""
    save_pieces(folder)
    with pytest.raises(ModelError, match=r"FSDP: pytorch_model_fsdp_0") as caught:
        check_folder(folder)
    words = shlex.split(str(caught.value.hint).partition(": ")[2])
    assert words[:2] == ["accelerate", "merge-weights"]
    merge_fsdp_weights(*words[2:])
    check_folder(folder)
    expected = load_model(tiny_checkpoint).state_dict()
    loaded = load_model(folder).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_fsdp_saves_no_config(folder: Path) -> None:
    """So the error says what else is needed, also where the training's own folder is given."""
    save_pieces(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match="FSDP") as caught:
        check_folder(folder)
    assert "copy config.json" in str(caught.value.hint)
    with pytest.raises(ModelError, match="checkpoint-10 in it is") as caught:
        check_folder(folder.parent)
    assert str(caught.value.hint).endswith("the run/checkpoint-10")


def test_the_pieces_of_deepspeed_are_gathered_by_its_script(folder: Path) -> None:
    """ZeRO 3 without stage3_gather_16bit_weights_on_model_save."""
    (folder / "global_step10").mkdir()
    (folder / "zero_to_fp32.py").touch()
    with pytest.raises(ModelError, match="DeepSpeed") as caught:
        check_folder(folder)
    words = shlex.split(str(caught.value.hint).partition(": ")[2])
    assert words == [
        *("python", str(folder / "zero_to_fp32.py"), str(folder), str(folder)),
        "--safe_serialization",
    ]


def test_shards_without_their_index_are_named(folder: Path) -> None:
    """A download by hand that left the small file out."""
    for number in (1, 2):
        (folder / f"model-0000{number}-of-00002.safetensors").touch()
    with pytest.raises(ModelError, match=r"no model\.safetensors\.index\.json"):
        check_folder(folder)


def test_weights_of_another_name_are_named(folder: Path) -> None:
    """Mistral publishes its own format beside transformers', and people rename files."""
    (folder / "consolidated.safetensors").touch()
    with pytest.raises(ModelError, match=r"no model\.safetensors") as caught:
        check_folder(folder)
    assert "there is consolidated.safetensors" in str(caught.value.hint)


def test_all_missing_shards_are_named(folder: Path) -> None:
    """Not one after the other, each in a run of its own."""
    names = [f"model-0000{number}-of-00005.safetensors" for number in range(1, 6)]
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {name: name for name in names}})
    )
    (folder / names[1]).touch()
    with pytest.raises(ModelError) as caught:
        weights_files(folder)
    told = f"{names[0]!r}, {names[2]!r}, {names[3]!r} and 1 more are missing"
    assert f"names 5 files, of which {told}" in str(caught.value)
