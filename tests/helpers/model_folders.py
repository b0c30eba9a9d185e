"""Makes model folders, complete and broken ones."""

import json
import shutil
from pathlib import Path

import torch

from tests import tiny


def rewrite(folder: Path, **changes) -> Path:
    """Changes a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def save(root: Path) -> dict[str, Path]:
    """Saves one folder of each kind, by name."""
    llama = tiny.save(root / "llama")

    def variant(name: str, leave_out: str = "", **changes) -> Path:
        shutil.copytree(llama, root / name, ignore=shutil.ignore_patterns(leave_out))
        return rewrite(root / name, **changes)

    folders = {"llama": llama, "t5": tiny.save(root / "t5", "t5")}
    folders["no-weights"] = variant("no-weights", "*.safetensors")
    folders["no-tokenizer"] = variant("no-tokenizer", "tokenizer*")
    folders["huge"] = variant(
        "huge",
        "*.safetensors",
        hidden_size=65536,
        intermediate_size=262144,
        vocab_size=2**20,
        num_hidden_layers=99,
    )
    folders["pickled"] = variant("pickled", "*.safetensors")
    torch.save(tiny.random_model("llama").state_dict(), folders["pickled"] / "pytorch_model.bin")
    folders["code"] = variant(
        "code", model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Mine"}
    )
    (folders["code"] / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'mine'\n"
        "class Mine(LlamaForCausalLM):\n    config_class = Config\n"
    )
    folders["foreign"] = shutil.copytree(folders["code"], root / "foreign")
    (folders["foreign"] / "mine.py").write_text("raise RuntimeError('this code ran')\n")
    folders["corrupt"] = variant("corrupt")
    weights = folders["corrupt"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folders
