"""Loading from the hub: the files asked for, a token that nobody sees, refusals that say what to do."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import constants, is_offline_mode

from engine.environment import TOKEN_VARIABLES
from engine.errors import LoadError
from engine.loading import load, reachability
from engine.options import LoadOptions
from tests.helpers import local_hub

TOKEN = "hf_" + "s3cret" * 5
ROOT = Path(__file__).parents[3]

CASES = {
    "served": {"options": {"model_name": "tiny/llama"}},
    "encoder-decoder": {"options": {"model_name": "tiny/t5"}},
    "a revision": {"options": {"model_name": "tiny/llama", "revision": local_hub.COMMIT}},
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
    with local_hub.serve(models, private, frozenset({"tiny/gated"})) as served:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
        }
        environment |= {"HF_ENDPOINT": served.url, "HF_HOME": str(home), "HOME": str(home), "NO_PROXY": "*"}
        process = subprocess.run(
            [sys.executable, "-m", "tests.helpers.load_in_process"],
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
    assert loads.outcomes["served"]["context_length"] == 512
    assert "model.safetensors" in dict(loads.asked("tiny/llama"))


def test_an_encoder_decoder_is_loaded_as_one(loads: Loads):
    assert loads.outcomes["encoder-decoder"]["model"] == "T5ForConditionalGeneration"
    assert loads.outcomes["encoder-decoder"]["context_length"] is None


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


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A hub that accepts no connection, though nobody says so; the tries to reach it."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    tries = []
    connect = socket.create_connection

    def counted(address, *arguments, **options):
        tries.append(address)
        return connect(address, *arguments, **options)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(socket, "create_connection", counted)
    reachability._accepts.cache_clear()
    yield tries
    reachability._accepts.cache_clear()


def test_an_unreachable_hub_is_tried_once_and_the_cache_is_used(unreachable, in_hub_cache, tiny_model: Path):
    in_hub_cache("tiny/cached", tiny_model)
    assert type(load(LoadOptions(model_name="tiny/cached")).model).__name__ == "LlamaForCausalLM"
    assert len(unreachable) <= 2, "one try, or one more if half a minute went by"


def test_an_unreachable_hub_is_told_with_the_way_to_work_offline(unreachable):
    with pytest.raises(LoadError, match=r"tiny/far cannot be downloaded: .* With HF_HUB_OFFLINE=1 in the"):
        load(LoadOptions(model_name="tiny/far"))
    assert len(unreachable) <= 2


def test_a_local_folder_needs_no_hub(unreachable, tiny_model: Path):
    load(LoadOptions(model_name=str(tiny_model)))
    assert unreachable == []


def test_offline_a_model_that_is_not_in_the_cache_says_so():
    assert is_offline_mode()
    with pytest.raises(LoadError, match=r"tiny/llama cannot be downloaded: offline.*local folder"):
        load(LoadOptions(model_name="tiny/llama"))
