"""Templates with named fields reach nothing but the texts that they are given."""

import pytest

from engine.configuration import split
from engine.errors import ConfigurationError
from engine.prompting.fields import filled, names


def test_fields_and_braces_are_as_in_str_format():
    template = '{{"text": "{text}"}} is {labels}? {text}{Review Title}'
    given = {"text": "{labels} {0}", "labels": "a, b", "Review Title": "!"}
    assert filled(template, given) == template.format(**given)
    assert names(template) == ["text", "labels", "Review Title"]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{text.__class__}", "{text.__class__} is not a plain name"),
        ("{text[0]}", "is not a plain name"),
        ("{text!r}", "is not a plain name"),
        ("{text:>10}", "is not a plain name"),
        ("{text:{labels}}", "is not a plain name"),
        ("{}", "is not a plain name"),
        ("{text", "write {{ and }} for braces"),
        ("text}", "write {{ and }} for braces"),
        ("Is it?", "it has no field of an item"),
        ("{labels}?", "it has no field of an item"),
    ],
)
def test_a_template_that_reaches_further_is_refused(template: str, said: str):
    with pytest.raises(ConfigurationError, match="option 'prompt_template': ") as raised:
        split({"model_name": "m", "prompt_template": template})
    assert said in str(raised.value)
