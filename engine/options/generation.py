"""How a conversation is rendered, and its answer generated and judged."""

import difflib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from engine.options.base import JSONObject, Options
from engine.options.objects import template_name


class GenerationOptions(Options):
    """How a conversation is rendered, and its answer generated."""

    system_prompt: str | None = Field(None, description="System prompt for conversations that have none.")
    chat_template: str | None = Field(
        None,
        description="A template name from engine/prompting/templates.py, or a Jinja template, instead of "
        "the tokenizer's own.",
    )
    chat_template_kwargs: JSONObject | None = Field(
        None,
        description='Further variables of the chat template, as {"enable_thinking": false}; a server gets '
        "them under the same name.",
    )
    keep_reasoning: bool = Field(
        False,
        description="Write what a model has thought before its answer into the annotation's metadata.",
    )
    overflow: Literal["drop_oldest", "error"] = Field(
        "drop_oldest",
        description="What to do with a conversation longer than the context length: drop its oldest "
        "turns, or fail.",
    )
    max_new_tokens: int = Field(
        256,
        ge=1,
        description="The most tokens of an answer; never more than the context length leaves.",
    )
    min_new_tokens: int = Field(
        0, ge=0, description="The fewest tokens of an answer: before, no end token is chosen."
    )
    eos_token_id: tuple[int, ...] = Field(
        (), description="Ids of tokens that end an answer, besides the checkpoint's own."
    )
    do_sample: bool | None = Field(
        None,
        description="Whether to sample; by default only if temperature (above 0), top_p, top_k or min_p "
        "is set.",
    )
    temperature: float | None = Field(None, ge=0, le=100, description="Sampling temperature; 0 is greedy.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Sample from the most likely tokens whose probabilities add up to this."
    )
    top_k: int | None = Field(None, ge=1, description="Sample from this many most likely tokens.")
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Sample from tokens at least this likely, relative to the most likely one.",
    )
    repetition_penalty: float | None = Field(
        None,
        gt=0,
        description="A value above 1 makes tokens that already occurred less likely; by default the "
        "checkpoint's.",
    )
    frequency_penalty: float = Field(
        0,
        ge=-2,
        le=2,
        description="Subtracted from a token's logit for each time it is in the answer already.",
    )
    presence_penalty: float = Field(
        0, ge=-2, le=2, description="Subtracted from a token's logit once it is in the answer."
    )
    no_repeat_ngram_size: int = Field(
        0, ge=0, description="No sequence of this many tokens occurs twice in prompt and answer; 0 is off."
    )
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="Added to the logits of these token ids, as {50256: -100}."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="Random seed; the same seed gives the same sampled answer."
    )
    n: int = Field(
        1,
        ge=1,
        le=64,
        description="How many answers to sample and store for each turn, ranked by their confidence; "
        "the conversation goes on after the surest.",
    )
    response_format: JSONObject | None = Field(
        None,
        description="The form of an answer as OpenAI's API has it (json_object, json_schema), for a server "
        "that keeps to it; a model on this machine refuses it.",
    )
    stop: tuple[str, ...] = Field((), description="Strings that end an answer; they are not part of it.")
    logprobs: bool = Field(False, description="Return an answer's tokens with their log-probabilities.")
    top_logprobs: int = Field(
        0,
        ge=0,
        le=20,
        description="How many of the most likely tokens to return at each position of an answer.",
    )
    confidence: str = Field(
        "min_token",
        description="How the confidence is computed, by a method of docs/confidence.md; the default is the "
        "probability of the least likely token.",
    )
    max_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Write into an annotation's metadata whether to accept it, so that at most this share of "
        "what is accepted is wrong; calibration.json has the threshold.",
    )
    confidence_methods: tuple[str, ...] = Field(
        (), description="More methods to compute; their values are in an annotation's metadata."
    )
    confidence_samples: int = Field(
        8, ge=2, le=64, description="How many answers to sample for a method that compares samples."
    )
    confidence_model: str | None = Field(
        None,
        description="Hub id or folder of the model that compares samples for semantic_entropy: an NLI model "
        "(by entailment both ways) or an embedding model (by cosine similarity).",
    )
    confidence_similarity: float = Field(
        0.9,
        ge=-1,
        le=1,
        description="Cosine similarity from which on an embedding model's texts mean the same.",
    )
    on_length: Literal["keep", "list"] = Field(
        "keep",
        description="What to do with an answer that is cut off at its most tokens: store it, marked in its "
        "metadata, or list it as failed.",
    )
    judge: str | None = Field(
        None,
        description="Hub id or folder of a second model that judges each answer; its score is in an "
        "annotation's metadata, and the confidence by the method judge.",
    )
    judge_rubric: str | None = Field(
        None,
        description="What the judge is asked of an answer, as a question that yes or no answers; by default "
        "whether it is correct.",
    )
    labels: tuple[str, ...] = Field(
        (),
        description="Answer with one of these labels, chosen by scoring, as a classification; on the "
        "platform, `recipe` stands for those of the dataset's recipe.",
    )
    label_prior: bool = Field(
        False,
        description="Divide each label's probability by the one that it has without the question.",
    )
    refusals: tuple[str, ...] = Field(
        (),
        description="Texts that mark an answer as a refusal, in any letter case: an annotation's metadata "
        "then says whether its answer contains one.",
    )
    token_confidence: bool = Field(
        False, description="Write the probability of each token of an answer into its annotation's metadata."
    )

    @field_validator("response_format")
    @classmethod
    def _text_is_no_form(cls, value: JSONObject | None) -> JSONObject | None:
        return None if value == {"type": "text"} else value

    @field_validator("chat_template", mode="before")
    @classmethod
    def _known_template(cls, value: Any) -> Any:
        return template_name(value)

    @field_validator("stop", "eos_token_id", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    @field_validator("stop", "refusals")
    @classmethod
    def _texts_are_not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty text is in every answer: leave it out")
        return value

    @field_validator("confidence_methods", "refusals", mode="before")
    @classmethod
    def _one_method_is_a_list(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    @field_validator("confidence", "confidence_methods")
    @classmethod
    def _known_methods(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        from engine.confidence import METHODS
        from engine.confidence.calibration import CALIBRATED

        if value == CALIBRATED:
            return value
        for method in (value,) if isinstance(value, str) else value:
            if method not in METHODS:
                near = difflib.get_close_matches(method, METHODS, n=1)
                hint = f": did you mean {near[0]!r}?" if near else f"; there are {', '.join(METHODS)}"
                raise ValueError(f"no such method{hint}")
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _recipes_are_read_on_the_platform(cls, value: Any) -> Any:
        if value == "recipe":
            raise ValueError('only the platform has a recipe of a dataset: list them, ["good", "bad"]')
        return value

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(label.strip() for label in value):
            raise ValueError("a label is empty: give it a text")
        if len(set(value)) < len(value) or len(value) == 1:
            raise ValueError("give at least two labels, each once")
        return value

    @model_validator(mode="after")
    def _a_label_has_no_other_form(self) -> Self:
        if self.labels and self.response_format is not None:
            raise ValueError("labels and response_format: an answer is a label already; leave one out")
        return self

    @model_validator(mode="after")
    def _clusters_need_a_model(self) -> Self:
        if "semantic_entropy" in (self.confidence, *self.confidence_methods) and not self.confidence_model:
            raise ValueError(
                "semantic_entropy needs confidence_model: name an NLI model or an embedding model"
            )
        return self

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens {self.min_new_tokens} is more than max_new_tokens {self.max_new_tokens}: "
                "change one of them"
            )
        return self

    @model_validator(mode="after")
    def _priors_are_of_labels(self) -> Self:
        if self.label_prior and not self.labels:
            raise ValueError("label_prior is for labels: list them, or leave it out")
        return self

    @model_validator(mode="after")
    def _judging_needs_a_judge(self) -> Self:
        if self.judge is None and "judge" in (self.confidence, *self.confidence_methods):
            raise ValueError("the confidence method judge needs the option judge: name a model that judges")
        if self.judge is None and self.judge_rubric is not None:
            raise ValueError("judge_rubric needs judge: name a model that judges")
        return self

    @model_validator(mode="after")
    def _sampling_needs_a_temperature(self) -> Self:
        if self.do_sample and self.temperature == 0:
            raise ValueError(
                "do_sample is true but temperature is 0 (greedy): raise it or leave do_sample out"
            )
        if self.temperature and self.temperature < 1e-3:
            raise ValueError("temperature is 0 (greedy) or at least 0.001: below, logits overflow")
        return self

    @model_validator(mode="after")
    def _several_answers_are_sampled(self) -> Self:
        if self.n > 1 and self.labels:
            raise ValueError(f"n is {self.n}, but a label is chosen, not sampled: leave n or labels out")
        if self.n > 1 and not self.sampled:
            raise ValueError(
                f"n is {self.n}, but greedy answers are all the same: set temperature, or leave n out"
            )
        return self

    def as_json(self) -> str:
        """All values as JSON: equal options have equal texts. Half a surrogate pair in one is no error."""
        return json.dumps(self.model_dump(), default=str)

    def __hash__(self) -> int:
        """By the values, of which a mapping has no hash of its own."""
        return hash(self.as_json())

    @property
    def evidence(self) -> frozenset[str]:
        """The fields of `engine.confidence.Evidence` that the chosen methods read."""
        from engine.confidence import needs

        return needs((self.confidence, *self.confidence_methods))

    @property
    def sampled(self) -> bool:
        """Whether tokens are sampled rather than chosen greedily."""
        if self.do_sample is not None:
            return self.do_sample
        if self.temperature is not None:
            return self.temperature > 0
        return any(value is not None for value in (self.top_p, self.top_k, self.min_p))
