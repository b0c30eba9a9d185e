"""Loading: weights from the hub or a folder, or an error that says what is wrong and what to do."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
import transformers
from huggingface_hub import is_offline_mode

from engine import loading
from engine.environment import TOKEN_VARIABLES
from engine.errors import ConfigurationError, LoadError
from engine.loading import load
from engine.options import LoadOptions
from tests import tiny
from tests.engine import hub

TOKEN = "hf_" + "s3cret" * 5
ROOT = Path(__file__).parents[2]


def rewrite(folder: Path, **changes) -> Path:
    """Changes a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders of every kind that there is on the hub, by name."""
    root = tmp_path_factory.mktemp("models")
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


# From the hub

CASES = {
    "served": {"options": {"model_name": "tiny/llama"}},
    "encoder-decoder": {"options": {"model_name": "tiny/t5"}},
    "a revision": {"options": {"model_name": "tiny/llama", "revision": hub.COMMIT}},
    "unknown revision": {"options": {"model_name": "tiny/llama", "revision": "v9"}},
    "gated": {"options": {"model_name": "tiny/gated"}, "environment": {"HF_TOKEN": TOKEN}},
    "missing": {"options": {"model_name": "tiny/nothing"}, "environment": {"HF_TOKEN": TOKEN}},
    "pickled": {"options": {"model_name": "tiny/pickled"}},
    "pickled, accepted": {"options": {"model_name": "tiny/pickled", "use_safetensors": False}},
    "no weights": {"options": {"model_name": "tiny/no-weights", "use_safetensors": False}},
    "too large": {"options": {"model_name": "tiny/huge"}},
    "code": {"options": {"model_name": "tiny/foreign"}},
    "code, trusted": {"options": {"model_name": "tiny/code", "trust_remote_code": True}},
    "private, no token": {"options": {"model_name": "private/HF_TOKEN"}},
}
# The end of line is what a secret read from a file brings along.
for variable in TOKEN_VARIABLES:
    CASES[f"private, {variable}"] = {
        "options": {"model_name": f"private/{variable}"},
        "environment": {variable: f"{TOKEN}\n"},
    }


@dataclass(frozen=True)
class Loads:
    """What came of each of `CASES`, what the hub was asked, and the folders that were written."""

    outcomes: dict[str, dict]
    requests: list[tuple[str, str, str | None]]
    written: list[Path]

    def asked(self, model: str) -> list[tuple[str, str | None]]:
        """Files of a model that the hub was asked for, and with what authorization."""
        start = f"/{model}/resolve/"
        return [
            (path.rpartition("/")[2], token) for _, path, token in self.requests if path.startswith(start)
        ]


@pytest.fixture(scope="session")
def loads(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Loads:
    """All cases, loaded one after the other by one fresh process with an empty home."""
    home, saved = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("saved")
    cases = CASES | {"served": CASES["served"] | {"environment": {"HF_TOKEN": TOKEN}, "save": str(saved)}}
    models = {f"tiny/{name}": folder for name, folder in folders.items()}
    models |= {"tiny/gated": folders["llama"]}
    models |= {f"private/{variable}": folders["llama"] for variable in TOKEN_VARIABLES}
    private = {f"private/{variable}": TOKEN for variable in TOKEN_VARIABLES}
    with hub.serve(models, private, frozenset({"tiny/gated"})) as served:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
        }
        environment |= {"HF_ENDPOINT": served.url, "HF_HOME": str(home), "HOME": str(home), "NO_PROXY": "*"}
        process = subprocess.run(
            [sys.executable, "-m", "tests.engine.loads"],
            input=json.dumps(cases),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
        )
    assert process.returncode == 0, process.stderr
    return Loads(json.loads(process.stdout), served.requests, [home, saved])


def test_a_model_of_the_hub_is_downloaded_and_loaded(loads: Loads):
    assert loads.outcomes["served"]["model"] == "LlamaForCausalLM"
    assert loads.outcomes["served"]["window"] == 512
    assert "model.safetensors" in dict(loads.asked("tiny/llama"))


def test_an_encoder_decoder_is_loaded_as_one(loads: Loads):
    assert loads.outcomes["encoder-decoder"]["model"] == "T5ForConditionalGeneration"
    assert loads.outcomes["encoder-decoder"]["window"] is None


def test_a_revision_may_be_a_commit(loads: Loads):
    assert loads.outcomes["a revision"]["model"] == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("gated", ["tiny/gated is gated", "accept its terms", "HUGGINGFACE_TOKEN"]),
        ("missing", ["tiny/nothing is missing", "Check the spelling of model_name", "HUGGINGFACE_TOKEN"]),
        ("unknown revision", ["tiny/llama has no revision 'v9'", "set revision to"]),
        ("private, no token", ["private/HF_TOKEN is missing", "or it is private", "HUGGINGFACE_TOKEN"]),
        ("pickled", ["tiny/pickled", "safetensors", "set use_safetensors to false if you trust"]),
        ("no weights", ["tiny/no-weights", "pytorch_model.bin"]),
        ("too large", ["tiny/huge is too large", "GiB free", "Take a smaller model"]),
        ("code", ["tiny/foreign", "Set trust_remote_code to true if you trust"]),
    ],
)
def test_a_refusal_names_the_model_says_what_it_is_and_what_to_do(loads: Loads, case: str, says: list[str]):
    assert loads.outcomes[case].get("error") == "LoadError"
    for words in says:
        assert words in loads.outcomes[case]["text"]


def test_pickled_weights_are_read_when_asked_for(loads: Loads):
    assert loads.outcomes["pickled, accepted"]["model"] == "LlamaForCausalLM"


@pytest.mark.parametrize("name", ["pickled", "no-weights"])
def test_nobody_is_asked_to_convert_pickled_weights(loads: Loads, name: str):
    api = f"/api/models/tiny/{name}/"
    asked = {path.removeprefix(api).split("/")[0] for _, path, _ in loads.requests if path.startswith(api)}
    assert not asked & {"commits", "discussions"}


def test_a_repositorys_code_runs_when_trusted(loads: Loads):
    assert loads.outcomes["code, trusted"]["model"] == "Mine"


def test_a_model_too_large_is_refused_before_its_weights_are_asked_for(loads: Loads):
    assert "config.json" in dict(loads.asked("tiny/huge"))
    assert not any("safetensors" in file for file, _ in loads.asked("tiny/huge"))


@pytest.mark.parametrize("variable", TOKEN_VARIABLES)
def test_the_token_of_the_environment_reaches_the_hub(loads: Loads, variable: str):
    assert loads.outcomes[f"private, {variable}"].get("model") == "LlamaForCausalLM"
    asked = loads.asked(f"private/{variable}")
    assert ("model.safetensors", f"Bearer {TOKEN}") in asked


def test_without_a_token_none_is_sent(loads: Loads):
    assert {token for _, token in loads.asked("tiny/pickled")} == {None}


@pytest.mark.parametrize("case", CASES)
def test_the_token_is_in_no_error_log_or_repr(loads: Loads, case: str):
    assert TOKEN not in json.dumps(loads.outcomes[case])
    assert loads.outcomes[case]["log"]


def test_the_token_is_in_no_file_that_was_written(loads: Loads):
    files = [path for folder in loads.written for path in folder.rglob("*") if path.is_file()]
    assert {"config.json", "tokenizer_config.json", "model.safetensors"} <= {path.name for path in files}
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_offline_a_model_that_is_not_in_the_cache_says_so():
    assert is_offline_mode()
    with pytest.raises(LoadError, match=r"tiny/llama cannot be downloaded: offline.*local folder"):
        load(LoadOptions(model_name="tiny/llama"))


# From a folder


@pytest.fixture
def load_folder(folders: dict[str, Path]) -> Callable:
    """Loads one of `folders` by its name, on the CPU unless the options say otherwise."""
    return lambda name="llama", **options: load(
        LoadOptions(**{"model_name": str(folders[name]), "device": "cpu"} | options)
    )


def test_a_folder_is_loaded_ready_to_answer(load_folder: Callable):
    loaded = load_folder()
    assert isinstance(loaded.model, transformers.LlamaForCausalLM)
    assert not loaded.model.training
    assert loaded.tokenizer.chat_template == tiny.CHAT_TEMPLATE
    expected = tiny.random_model("llama").state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.model.state_dict().items())


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c", "no model"])
def test_a_folder_that_is_not_there_is_named(name: str):
    with pytest.raises(
        LoadError, match=f"{name} is missing: no such folder.* Check the spelling of model_name"
    ):
        load(LoadOptions(model_name=name))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pickled", "set use_safetensors to false if you trust"),
        ("no-weights", "set use_safetensors to false if you trust"),
        ("foreign", "Set trust_remote_code to true if you trust"),
        ("huge", "is too large: its weights take [0-9.]+ GiB in float32"),
        ("no-tokenizer", "cannot be loaded: .*tokenizer"),
        ("corrupt", "cannot be loaded: "),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_why(load_folder: Callable, folders: dict, name: str, says: str):
    with pytest.raises(LoadError, match=f"{folders[name]}.*{says}"):
        load_folder(name)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_too_large_where_its_weights_alone_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, dtype: str
):
    options = LoadOptions(model_name=str(tiny.save(tmp_path, architecture)), dtype=dtype, device="cpu")
    weights = sum(weight.nbytes for weight in load(options).model.parameters())
    memory = psutil.virtual_memory()
    for free in (weights, weights - 1):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: memory._replace(available=free))
        if free == weights:
            assert load(options).model.dtype == getattr(torch, dtype)
        else:
            with pytest.raises(LoadError, match=f"is too large: its weights take .* in {dtype} and cpu has"):
                load(options)


def test_pickled_weights_of_a_folder_are_the_same_weights(load_folder: Callable):
    pickled, safe = load_folder("pickled", use_safetensors=False), load_folder()
    expected = safe.model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in pickled.model.state_dict().items())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_weights_have_the_dtype_asked_for(load_folder: Callable, dtype: str, expected: torch.dtype):
    assert {weight.dtype for weight in load_folder(dtype=dtype).model.parameters()} == {expected}


@pytest.mark.parametrize(
    ("own", "instructions", "kept", "options", "expected"),
    [
        ("float32", False, True, {}, torch.float32),
        ("bfloat16", False, True, {}, torch.bfloat16),
        ("float16", False, True, {}, torch.float16),
        ("bfloat16", False, False, {}, torch.float32),
        ("bfloat16", True, False, {}, torch.bfloat16),
        ("bfloat16", False, True, {"device_map": "auto"}, torch.float32),
        ("bfloat16", False, True, {"load_in_8bit": True}, torch.float32),
    ],
)
def test_on_a_cpu_auto_is_the_checkpoints_own_dtype_where_it_is_fast(
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    instructions: bool,
    kept: bool,
    options: dict,
    expected: torch.dtype,
):
    half = shutil.copytree(folders["llama"], tmp_path / "half")
    rewrite(half, dtype=own)
    monkeypatch.setattr(loading, "keeps_half", lambda: kept)
    monkeypatch.setattr(loading, "multiplies", lambda dtype: instructions)
    loaded = load(LoadOptions(model_name=str(half), dtype="auto", device="cpu", **options))
    assert {weight.dtype for weight in loaded.model.parameters()} - {torch.int8} == {expected}


@pytest.mark.parametrize("device", ["cuda:99", "hpu", "abacus", ""])
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(device: str):
    with pytest.raises(
        ConfigurationError, match=f"device '{device}' is not to be had here .*: use auto or cpu"
    ):
        load(LoadOptions(model_name="/no/such/folder", device=device))


@pytest.mark.parametrize(
    "options",
    [
        {"device_map": "auto"},
        {"device_map": {"": "cpu"}},
        {"device_map": "auto", "max_memory": {"cpu": "1GiB"}},
        {"attn_implementation": "eager"},
    ],
    ids=str,
)
def test_a_model_is_placed_and_computed_as_asked(load_folder: Callable, options: dict):
    loaded = load_folder(**options)
    assert loaded.model.config._attn_implementation == options.get("attn_implementation", "sdpa")
    assert torch.isfinite(loaded.model(torch.tensor([[5, 6]], device=loaded.model.device)).logits).all()


def test_an_attention_that_is_not_there_is_an_error_that_names_the_option(load_folder: Callable):
    with pytest.raises(LoadError, match="Leave attn_implementation out"):
        load_folder(attn_implementation="guesswork")


@pytest.mark.parametrize(
    ("architecture", "changes", "window"),
    [
        ("llama", {}, 512),
        ("gpt2", {"n_positions": 64}, 64),
        ("bart", {"max_position_embeddings": 128}, 128),
        ("t5", {}, None),
    ],
)
def test_the_window_is_the_models(tmp_path: Path, architecture: str, changes: dict, window: int | None):
    folder = tiny.save(tmp_path, architecture, **changes)
    assert load(LoadOptions(model_name=str(folder))).window == window


def test_a_model_without_a_bound_has_its_tokenizers_window(tmp_path: Path):
    tiny.random_model("t5").save_pretrained(tmp_path)
    tiny.byte_tokenizer(model_max_length=100).save_pretrained(tmp_path)
    assert load(LoadOptions(model_name=str(tmp_path))).window == 100


# To embed


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("llama", "LlamaModel"), ("t5", "T5EncoderModel"), ("bart", "BartModel"), ("bert", "BertModel")],
)
def test_to_embed_a_model_is_loaded_without_its_head(
    tmp_path: Path, capfd: pytest.CaptureFixture, architecture: str, expected: str
):
    if architecture == "bert":
        size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        transformers.BertForMaskedLM(transformers.BertConfig(**size)).save_pretrained(tmp_path)
        tiny.byte_tokenizer().save_pretrained(tmp_path)
    else:
        tiny.save(tmp_path, architecture)
    options = LoadOptions(model_name=str(tmp_path), device="cpu")
    loaded = load(options, task="embed")
    assert type(loaded.model).__name__ == expected
    assert not loaded.model.training
    assert loaded.options == options
    assert "LOAD REPORT" not in capfd.readouterr().err
    assert transformers.logging.get_verbosity() == transformers.logging.WARNING


def test_to_embed_the_same_weights_are_loaded(load_folder: Callable, folders: dict[str, Path]):
    whole = load_folder("llama").model.base_model.state_dict()
    bare = load(LoadOptions(model_name=str(folders["llama"]), device="cpu"), task="embed").model.state_dict()
    assert whole.keys() == bare.keys()
    assert all(torch.equal(weight, bare[name]) for name, weight in whole.items())


def test_to_embed_a_checkpoint_has_to_be_complete(folders: dict[str, Path], tmp_path: Path):
    folder = rewrite(Path(shutil.copytree(folders["llama"], tmp_path / "short")), num_hidden_layers=3)
    with pytest.raises(LoadError, match=r"short has no weights for layers\.2\..* …"):
        load(LoadOptions(model_name=str(folder), device="cpu"), task="embed")
