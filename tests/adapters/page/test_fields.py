"""The form of the options is made of the options themselves."""

import pytest

from adapters.page.fields import chosen, fields
from engine.errors import ConfigurationError
from engine.options import GenerationOptions

FIELDS = fields(GenerationOptions(max_new_tokens=48, stop=("END", "STOP")))
BY_NAME = {field.name: field for field in FIELDS}


def filled(**values: str) -> GenerationOptions:
    typed = [values.get(field.name, "") for field in FIELDS]
    return chosen(GenerationOptions(max_new_tokens=48), FIELDS, typed)


def test_every_option_has_a_field_but_those_that_the_page_sets():
    left_out = set(GenerationOptions.model_fields) - BY_NAME.keys()
    for_annotations = {"keep_reasoning", "n", "on_length"}
    objects = {"chat_template_kwargs", "eos_token_id", "logit_bias", "response_format"}
    assert left_out == {"logprobs", "top_logprobs"} | objects | for_annotations
    for name, field in BY_NAME.items():
        assert field.description == GenerationOptions.model_fields[name].description


def test_a_field_shows_what_is_configured():
    assert BY_NAME["max_new_tokens"].value == "48"
    assert BY_NAME["stop"].value == "END\nSTOP"
    assert BY_NAME["overflow"].choices == ("drop_oldest", "error")
    assert BY_NAME["temperature"].value == ""


def test_what_is_typed_is_an_option_and_an_empty_field_leaves_the_configuration():
    options = filled(
        temperature=" 0.7 ", top_k="5", do_sample="true", stop="END\nSTOP", system_prompt="Be brief."
    )
    assert (options.temperature, options.top_k, options.do_sample) == (0.7, 5, True)
    assert (options.stop, options.system_prompt) == (("END", "STOP"), "Be brief.")
    assert options.max_new_tokens == 48
    assert (options.logprobs, options.top_logprobs) == (True, 5)


def test_an_invalid_value_is_refused_by_its_option():
    with pytest.raises(ConfigurationError, match="'top_p'"):
        filled(top_p="lots")
