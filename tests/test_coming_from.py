"""The calls of other systems, as docs/coming_from.md writes them, run and answer."""

import re
import shlex
from pathlib import Path

import pytest

from adapters import page
from adapters.cli import main
from engine.configuration import KNOWN, PLATFORM_KEYS
from engine.options.names import ALIASES, NO_EFFECT, REFUSED
from tests.helpers.servers.misbehaving import Server, vector

ROOT = Path(__file__).parents[1]
SECTIONS = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8").split("\n## ")[1:]
TITLES = [
    "Languru's TransformersAction",
    "EasyLLM",
    "Alfred's HuggingFaceModel",
    "A pipeline of transformers",
    "Dataloop's own huggingface-adapter",
]


# The parameters of the five systems that are no methods' own arguments here.
PARAMETERS = """
    device use_quantization load_in_8bit load_in_4bit use_flash_attention stop_words is_causal_lm
    model_deploys dimensions
    api_key prompt_builder temperature top_p top_k max_tokens stop frequency_penalty debug logprobs
    model_string dtype local_path device_map offload_folder int_8 trust_remote_code tokenizer
    padding hidden_state allow_grad tokenized
    num_beams no_repeat_ngram_size min_new_tokens eos_token_id logit_bias repetition_penalty
    torch_dtype attn_implementation max_new_tokens return_full_text do_sample pad_token_id use_cache
    weights_filename module_name
"""


def run(title: str) -> dict:
    """The names that the blocks of a section leave behind, run one after the other."""
    [section] = [section for section in SECTIONS if section.startswith(title)]
    names: dict = {"__name__": "coming_from"}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(block, names)
    return names


def test_every_section_is_run():
    assert [section.splitlines()[0] for section in SECTIONS] == TITLES


@pytest.mark.parametrize("name", PARAMETERS.split())
def test_every_parameter_is_on_the_page_and_taken_or_refused_with_a_reason(name: str):
    assert re.search(rf"\b{name}\b", "".join(SECTIONS))
    assert name in KNOWN | ALIASES.keys() | REFUSED.keys() | NO_EFFECT | PLATFORM_KEYS


def test_langurus_calls(capsys):
    names = run("Languru")
    assert names["completion"].model == "talk-small"
    assert "The capital of France is Paris." in capsys.readouterr().out
    assert len(names["embeddings"].data[0].embedding) == 128


def test_easyllms_calls(monkeypatch: pytest.MonkeyPatch, capsys):
    with Server() as server:
        monkeypatch.setenv("HUGGINGFACE_API_BASE", server.url)
        names = run("EasyLLM")
    chat, text, vectors = server.asked
    assert chat.body["messages"][-1] == {"role": "user", "content": "Knock knock."}
    assert {key: chat.body[key] for key in ("temperature", "top_p", "max_tokens")} == (
        {"temperature": 0.9, "top_p": 0.6, "max_tokens": 1024}
    )
    assert text.body["prompt"] == vectors.body["input"][0] == "What is the meaning of life?"
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["KNOCK KNOCK.", "WHAT IS THE MEANING OF LIFE?"]
    assert printed[3] == "WHAT IS THE MEANING OF LIFE?"
    assert len(names["embedding"].data[0].embedding) == len(vector(""))


def test_alfreds_calls():
    names = run("Alfred")
    assert names["vectors"].shape == (2, 128)
    assert all(answer.text for answer in names["answers"])
    assert names["states"].shape == (1, 128)
    assert [candidate for candidate, _ in names["ranked"]] == [" Tokyo", " Oslo"]
    assert [len(scores.candidates) for scores in names["pairs"]] == [1, 1]


def test_the_generation_arguments_of_a_pipeline(capsys):
    run("A pipeline")
    assert "The capital of Brazil is" in capsys.readouterr().out


def test_the_page_around_a_pipeline_is_one_command(monkeypatch: pytest.MonkeyPatch):
    [command] = re.findall(r"```bash\npython -m adapters (.*?)\n```", "".join(SECTIONS), re.DOTALL)
    served = []
    monkeypatch.setattr(page, "launch", lambda model, **_: served.append(model))
    assert main(shlex.split(command)) == 0
    options = served[0].configuration.generation
    assert (options.temperature, options.do_sample, options.max_new_tokens) == (0.1, True, 500)
    assert options.system_prompt == "You are a helpful assistant."


def test_the_upstream_model_file(capsys):
    run("Dataloop")
    assert capsys.readouterr().out == "10\n"
