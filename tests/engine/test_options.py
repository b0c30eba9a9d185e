"""Options: one snapshot of a configuration, checked once, and every refusal names the key."""

import pytest
import torch
from pydantic import ValidationError
from transformers import BitsAndBytesConfig

from engine.configuration import PLATFORM_KEYS, override, split
from engine.errors import ConfigurationError, Unsupported
from engine.options import GenerationOptions, LoadOptions
from engine.options.names import ALIASES

MODEL = {"model_name": "owner/name"}


VALUES = {
    "base_url": "http://localhost:1",
    "chat_template": "plain",
    "dimensions": 8,
    "dtype": "float16",
    "load_in_8bit": True,
    "max_new_tokens": 8,
    "min_new_tokens": 3,
    "model_name": "owner/other",
    "stop": ["END"],
}


def parts(*configurations: dict) -> tuple[LoadOptions, GenerationOptions]:
    made = split(*configurations)
    return made.load, made.generation


def test_a_configuration_is_split_into_the_kinds():
    load, generation = parts(
        {**MODEL, "dtype": "bfloat16", "revision": "v2", "temperature": 0.5, "stop": ["END"]}
    )
    assert (load.model_name, load.dtype, load.revision) == ("owner/name", "bfloat16", "v2")
    assert (generation.temperature, generation.stop) == (0.5, ("END",))


def test_a_key_goes_to_every_part_that_reads_it():
    made = split(MODEL, {"pooling": "cls", "model_deploys": ["A", "B"]})
    assert made.load.model_name == made.endpoint.model_name == "owner/name"
    assert made.embedding.pooling == "cls"
    assert made.adapter.model_deploys == ("A", "B")


def test_where_a_server_answers_nothing_is_loaded():
    made = split({"backend": "endpoint", "base_url": "http://localhost:1"})
    assert made.load is None
    assert made.endpoint.base_url == "http://localhost:1"


def test_what_is_safe_and_exact_is_the_default():
    load, generation = parts(MODEL)
    assert load.use_safetensors
    assert not load.trust_remote_code
    assert not generation.sampled
    assert generation.confidence == "min_token"


def test_a_later_configuration_wins_whatever_name_it_uses():
    _, generation = parts(MODEL, {"max_new_tokens": 256, "top_k": 5}, {"max_tokens": 8})
    assert (generation.max_new_tokens, generation.top_k) == (8, 5)


def test_none_is_not_given():
    load, generation = parts(
        {**MODEL, "dtype": "float16", "max_tokens": 8}, {"dtype": None, "max_tokens": None}
    )
    assert (load.dtype, generation.max_new_tokens) == ("float16", 8)


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [(alias, name, VALUES[name]) for alias, name in ALIASES.items()],
)
def test_an_alias_is_the_same_option(alias: str, name: str, value: object):
    model = {"backend": "endpoint"} if name == "base_url" else MODEL if name != "model_name" else {}
    assert split({**model, alias: value}) == split({**model, name: value})
    assert split({**model, alias: value, name: value}) == split({**model, name: value})


def test_two_names_of_one_option_with_two_values_are_refused_by_both_names():
    with pytest.raises(ConfigurationError, match="'max_tokens' and 'max_new_tokens' are one option"):
        split({**MODEL, "max_tokens": 8, "max_new_tokens": 9})


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("temprature", "temperature"),
        ("max_new_token", "max_new_tokens"),
        ("trust_remote_cod", "trust_remote_code"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key: str, nearest: str):
    with pytest.raises(ConfigurationError, match=f"unknown option '{key}': did you mean '{nearest}'"):
        split({**MODEL, key: 1})


def test_an_unknown_key_like_none_is_refused_with_all_known_ones():
    with pytest.raises(
        ConfigurationError, match=r"unknown option 'zzz': known options: .*\bdtype\b.*\bstop\b"
    ):
        split({**MODEL, "zzz": None})


def test_the_platforms_own_keys_are_passed_over():
    assert split(MODEL | dict.fromkeys(PLATFORM_KEYS, "anything")) == split(MODEL)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -1),
        ("temperature", "warm"),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.5),
        ("top_k", 0),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("max_new_tokens", 0),
        ("stop", [""]),
        ("stop", ""),
        ("stop", {"END": 1}),
        ("stop", [None]),
        ("overflow", "ignore"),
        ("confidence", "vibes"),
        ("chat_template", "vicunna"),
        ("chat_template", "build_unknown_prompt"),
        ("eos_token_id", "</s>"),
        ("logit_bias", {5: 101}),
        ("logit_bias", {"five": 1}),
        ("no_repeat_ngram_size", -1),
        ("refusals", [""]),
        ("tokenizer", 7),
        ("dtype", "float8"),
        ("max_memory", "20GiB"),
        ("trust_remote_code", "perhaps"),
        ("model_name", ""),
    ],
)
def test_an_invalid_value_is_refused_and_its_key_named(key: str, value: object):
    with pytest.raises(ConfigurationError, match=rf"option '{key}\b"):
        split({**MODEL, key: value})


def test_every_bad_value_is_named_at_once():
    with pytest.raises(ConfigurationError, match=r"'temperature'.*'top_p'"):
        split({**MODEL, "temperature": -1, "top_p": 2})


def test_an_unknown_confidence_is_refused_with_those_that_are():
    with pytest.raises(
        ConfigurationError, match="'confidence': no such method; there are mean_logprob, sequence, "
    ):
        split({**MODEL, "confidence": "vibes"})


def test_a_model_must_be_named():
    with pytest.raises(ConfigurationError, match="option 'model_name': set it in the configuration"):
        split({"temperature": 1})


def test_memory_without_a_map_is_refused_rather_than_passed_over():
    with pytest.raises(ConfigurationError, match="max_memory is for device_map"):
        split({**MODEL, "max_memory": {"cpu": "1GiB"}})


def test_a_temperature_too_low_to_compute_with_is_refused():
    with pytest.raises(ConfigurationError, match=r"temperature is 0 .* or at least"):
        split({**MODEL, "temperature": 1e-9})


def test_text_that_looks_like_a_number_may_be_one():
    load, generation = parts({**MODEL, "revision": 1234567, "stop": [7]})
    assert (load.revision, generation.stop) == ("1234567", ("7",))


def test_sampling_at_temperature_zero_is_a_contradiction():
    with pytest.raises(ConfigurationError, match="do_sample is true but temperature is 0"):
        split({**MODEL, "do_sample": True, "temperature": 0})


def test_a_label_has_no_other_form():
    given = {"labels": ["a", "b"], "response_format": {"type": "json_object"}}
    with pytest.raises(ConfigurationError, match="labels and response_format: an answer is a label already"):
        split({**MODEL, **given})


@pytest.mark.parametrize(
    ("given", "sampled"),
    [
        ({}, False),
        ({"temperature": 0}, False),
        ({"temperature": 0, "top_p": 0.9}, False),
        ({"temperature": 0.7}, True),
        ({"top_p": 0.9}, True),
        ({"top_k": 5}, True),
        ({"min_p": 0.1}, True),
        ({"do_sample": True}, True),
        ({"do_sample": False, "temperature": 0.7}, False),
        ({"repetition_penalty": 1.2}, False),
    ],
)
def test_an_answer_is_sampled_when_an_option_of_sampling_is_set(given: dict, sampled: bool):
    assert split(MODEL | given).generation.sampled is sampled


def test_one_stop_string_is_a_list_of_one():
    assert split({**MODEL, "stop": "END"}).generation.stop == ("END",)


def test_devices_in_json_have_numbers_as_text():
    load, _ = parts({**MODEL, "device_map": "auto", "max_memory": {"0": "20GiB", "cpu": "60GiB"}})
    assert load.max_memory == {0: "20GiB", "cpu": "60GiB"}


def test_options_do_not_change():
    for options in parts(MODEL):
        with pytest.raises(ValidationError, match="frozen"):
            options.seed = 1


def test_an_override_replaces_what_it_names_and_keeps_the_rest():
    _, options = parts({**MODEL, "temperature": 0.5, "max_new_tokens": 8})
    changed = override(options, {"max_tokens": 16, "temperature": None})
    assert (changed.temperature, changed.max_new_tokens) == (0.5, 16)
    assert options.max_new_tokens == 8


@pytest.mark.parametrize("values", [{"temprature": 1}, {"top_p": 2}, {"dtype": "float16"}])
def test_an_override_is_checked_as_a_configuration_is(values: dict):
    _, options = parts(MODEL)
    with pytest.raises(ConfigurationError, match=next(iter(values))):
        override(options, values)


# Names and objects of other systems


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("token", "hf_secret", "set HF_TOKEN"),
        ("api_key", "hf_secret", "set HF_TOKEN"),
        ("reasoning_effort", "low", "chat_template_kwargs"),
        ("num_beams", 4, "beam search is not available"),
        ("return_full_text", True, "never repeats its prompt"),
        ("hidden_state", True, r"hidden_states\(texts\)"),
        ("debug", True, "setLevel"),
    ],
)
def test_an_option_of_another_system_is_refused_with_what_to_do_instead(key: str, value: object, says: str):
    for refused in (
        lambda: split({**MODEL, key: value}),
        lambda: override(GenerationOptions(), {key: value}),
    ):
        with pytest.raises(Unsupported, match=f"^{key}: .*{says}") as raised:
            refused()
        assert "hf_secret" not in str(raised.value)


def test_values_that_ask_for_nothing_are_taken():
    nothing = {"num_beams": 1, "return_full_text": False, "debug": False, "api_key": None, "tools": []}
    assert split({**MODEL, **nothing, "padding": True, "pad_token_id": 0}) == split(MODEL)


def test_a_misspelt_name_of_another_system_is_suggested():
    with pytest.raises(ConfigurationError, match="did you mean 'num_beams'"):
        split({**MODEL, "num_beam": 1})


@pytest.mark.parametrize(
    ("configuration", "says"),
    [
        ({"base_url": "http://localhost:1"}, "'base_url' is for a server: set backend"),
        ({"timeout": 3}, "'timeout' is for a server"),
        ({"backend": "endpoint", "load_in_4bit": True}, "'load_in_4bit' is for a model that is loaded here"),
    ],
)
def test_an_option_that_the_backend_does_not_read_is_refused(configuration: dict, says: str):
    with pytest.raises(ConfigurationError, match=says):
        split(MODEL, configuration)


def test_an_option_that_the_model_file_sets_for_another_backend_is_not_the_users():
    assert split({**MODEL, "dtype": "float16"}, {"backend": "endpoint", "dtype": "float16"}).load is None


def test_a_quantization_config_is_its_options():
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
    assert split({**MODEL, "quantization_config": config}) == split({**MODEL, **options})
    assert split({**MODEL, "quantization_config": options}) == split({**MODEL, **options})
    plain = split({**MODEL, "quantization_config": BitsAndBytesConfig(load_in_4bit=True)})
    assert plain.load.bnb_4bit_compute_dtype == "float32", "transformers' default"
    with pytest.raises(ConfigurationError, match="load_in_4bit and quantization_config contradict"):
        split({**MODEL, "quantization_config": config, "load_in_4bit": False})
    with pytest.raises(ConfigurationError, match="give a BitsAndBytesConfig, or its options"):
        split({**MODEL, "quantization_config": 4})
    with pytest.raises(ConfigurationError, match="by bitsandbytes only, not by gptq"):
        split({**MODEL, "quantization_config": {"quant_method": "gptq", "bits": 4}})


def test_dtypes_and_devices_may_be_objects_of_torch():
    load, _ = parts({**MODEL, "torch_dtype": torch.float16, "device": torch.device("cuda:1")})
    assert (load.dtype, load.device) == ("float16", "cuda:1")


def test_a_prompt_builder_of_easyllm_goes_by_its_names():
    def build_vicuna_prompt(messages):
        raise AssertionError

    def mine(messages):
        raise AssertionError

    names = ("vicuna", "build_vicuna_prompt", build_vicuna_prompt)
    assert {split({**MODEL, "prompt_builder": name}).generation.chat_template for name in names} == {"vicuna"}
    with pytest.raises(ConfigurationError, match=r"is the function mine, .* text_completion\(prompt="):
        split({**MODEL, "prompt_builder": mine})


def test_the_fewest_tokens_are_no_more_than_the_most():
    with pytest.raises(ConfigurationError, match="min_new_tokens 9 is more than max_new_tokens 8"):
        split({**MODEL, "min_new_tokens": 9, "max_new_tokens": 8})


def test_a_prior_without_labels_is_refused():
    with pytest.raises(ConfigurationError, match="label_prior is for labels"):
        split({**MODEL, "label_prior": True})


def test_json_has_token_ids_as_text():
    _, options = parts({**MODEL, "logit_bias": {"5": -100}})
    assert options.logit_bias == {5: -100}
    assert hash(options) == hash(parts({**MODEL, "logit_bias": {5: -100}})[1])
