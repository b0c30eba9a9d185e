"""Sends a request to a server's routes; yields their answers, whole or in chunks."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

from jinja2.exceptions import TemplateSyntaxError

from engine.backends.endpoint.messages import has_images, openai_messages, text_messages
from engine.backends.endpoint.wire import Client
from engine.confidence import TOP_K
from engine.errors import AdapterError, ConfigurationError, PromptError, Unsupported
from engine.options import GenerationOptions
from engine.prompting.sandbox import render
from engine.prompting.templates import check_arguments, find_template, invalid_template
from engine.text import encodable
from engine.types import Request

# A client, a request, whether to stream, and the optional parameters that the server rejects → its answers.
Route = Callable[[Client, Request, bool, frozenset[str]], AsyncIterator[Any]]

_END = "\ue0ff"  # Replaces the end token while a template is rendered; no text has this character.
# Optional parameters: a server that rejects one is asked without it.
OPTIONAL_PARAMETERS = frozenset({"logprobs", "stream_options"})
# Generation options that no route has.
_LOCAL_ONLY = ("min_new_tokens", "no_repeat_ngram_size", "eos_token_id")


def chat(client: Client, request: Request, stream: bool, rejected: frozenset[str]) -> AsyncIterator[Any]:
    """OpenAI's route for conversations; TGI and the hub's providers have it, too."""
    body = _openai(request.options, rejected)
    further = dict(client.server.options.extra_body or {})
    if request.options.chat_template_kwargs:
        further["chat_template_kwargs"] = dict(request.options.chat_template_kwargs)
    if not client.address.hub:
        body = {"messages": openai_messages(request)} | body | further
        return _posted(client, "chat/completions", body, stream, rejected)
    own = ("top_k", "min_p", "repetition_penalty", "logit_bias")
    arguments = {key: value for key, value in body.items() if key not in own}
    further = {key: body[key] for key in own if key in body} | further
    return _each(
        client,
        client.chat_completion(
            openai_messages(request),
            model=client.server.options.model_name,
            stream=stream,
            stream_options=cast(Any, _usage(stream, rejected) or None),
            extra_body=further or None,
            **arguments,
        ),
        stream,
    )


def completion(
    client: Client,
    request: Request,
    stream: bool,
    rejected: frozenset[str],
    more: Mapping[str, Any] = MappingProxyType({}),
) -> AsyncIterator[Any]:
    """OpenAI's route for plain prompts; `more` are parameters that OpenAI's own does not have."""
    prompt = request.prompt
    body = _openai(request.options, rejected) | {
        "prompt": encodable(prompt) if isinstance(prompt, str) else list(prompt or ()),
        **more,
    }
    if request.suffix is not None:
        body["suffix"] = encodable(request.suffix)
    body |= client.server.options.extra_body or {}
    top = body.pop("top_logprobs", 0)
    if body.pop("logprobs", False):
        body["logprobs"] = top
    return _posted(client, "completions", body, stream, rejected)


def tgi(client: Client, request: Request, stream: bool, rejected: frozenset[str]) -> AsyncIterator[Any]:
    """TGI's own route for plain prompts, and the hub's providers'."""
    options = request.options
    named = ("min_p", "presence_penalty", "logit_bias", "response_format")
    _refuse(options, named, "TGI's own routes", "set api to openai")
    _refuse(options, _LOCAL_ONLY, "TGI's own routes", "load the model here")
    if request.suffix is not None:
        raise ConfigurationError("TGI's own routes have no suffix: leave it out, or set api to openai")
    if client.server.options.extra_body:
        raise ConfigurationError("TGI's own routes take no extra_body: leave it out, or set api to openai")
    if not isinstance(request.prompt, str):
        raise Unsupported("TGI's own routes take no token ids: give the prompt as text")
    root = client.address.root
    stream = stream and root is not None  # The hub's providers have different stream formats.
    sampled = options.sampled
    return _each(
        client,
        client.text_generation(
            encodable(request.prompt),
            model=f"{root}/generate{'_stream' if stream else ''}" if root else None,
            details=True,
            stream=stream,
            return_full_text=False,
            max_new_tokens=options.max_new_tokens,
            do_sample=sampled,
            temperature=options.temperature if sampled else None,
            top_k=options.top_k if sampled else None,
            # TGI rejects 1, which means no filter.
            top_p=options.top_p if sampled and options.top_p != 1 else None,
            repetition_penalty=options.repetition_penalty,
            frequency_penalty=options.frequency_penalty or None,
            seed=options.seed,
            stop=list(options.stop) or None,
            top_n_tokens=_top(options) or None,
        ),
        stream,
    )


def rendered(request: Request) -> Request:
    """Renders a conversation to a plain prompt, by the option `chat_template`.

    Raises:
        PromptError: an empty conversation, or a template that rejects it.
        ConfigurationError: an invalid template.
    """
    options = request.options
    template = find_template(str(options.chat_template))
    if has_images(request):
        raise PromptError(
            "chat_template makes a text of a conversation, and this one has images: leave it out to take the "
            "server's own"
        )
    try:
        prompt = render(
            template.text,
            text_messages(request),
            add_generation_prompt=True,
            bos_token="",  # The server adds its own.
            eos_token=_END,
            **check_arguments(options.chat_template_kwargs or {}, template.text),
        )
    except AdapterError:
        raise
    except TemplateSyntaxError as error:
        raise invalid_template(str(error)) from None
    except Exception as error:  # Third-party code: any exception is possible.
        raise PromptError(f"the chat_template refuses this conversation: {type(error).__name__}") from None
    if _END in prompt:
        raise PromptError(
            "the chat_template writes the model's end token, and a server's is not known here: give a "
            "template that has it as text, or leave chat_template out to take the server's own"
        )
    stops = (*options.stop, *template.stops)
    return Request(request.messages, options.model_copy(update={"stop": stops}), prompt)


async def _posted(
    client: Client, route: str, body: dict[str, Any], stream: bool, rejected: frozenset[str]
) -> AsyncIterator[Any]:
    """The answers of an OpenAI route to a body, which is sent as it is: the hub library changes some."""
    body = {"model": client.server.options.model_name or "dummy", "stream": stream} | body
    if not stream:
        yield json.loads(await client.post(route, body))
        return
    options = _usage(stream, rejected)
    await client.post(route, body | ({"stream_options": options} if options else {}), stream=True)
    async for chunk in client.answers:
        yield chunk


async def _each(client: Client, answered: Any, stream: bool) -> AsyncIterator[Any]:
    whole = await answered
    if not stream:
        yield whole
        return
    async for chunk in client.answers:  # The hub library parses only one form of streams.
        yield chunk


def _refuse(options: GenerationOptions, names: Sequence[str], routes: str, instead: str) -> None:
    """Refuses options that some routes do not have.

    Raises:
        ConfigurationError: one of them is set.
    """
    if missing := [name for name in names if getattr(options, name)]:
        raise ConfigurationError(f"{routes} have no {' and no '.join(missing)}: leave it out, or {instead}")


def _openai(options: GenerationOptions, rejected: frozenset[str]) -> dict[str, Any]:
    _refuse(options, _LOCAL_ONLY, "OpenAI's routes", "load the model here")
    sampled = options.sampled
    body: dict[str, Any] = {
        "max_tokens": options.max_new_tokens,
        "stop": list(options.stop) or None,
        "temperature": options.temperature if sampled else 0,
        "top_p": options.top_p if sampled else None,
        "top_k": options.top_k if sampled else None,
        "min_p": options.min_p if sampled else None,
        "repetition_penalty": options.repetition_penalty,
        "frequency_penalty": options.frequency_penalty or None,
        "presence_penalty": options.presence_penalty or None,
        "seed": options.seed,
        "response_format": options.response_format and dict(options.response_format),
        "logit_bias": options.logit_bias,
    }
    if "logprobs" not in rejected:
        body |= {"logprobs": True, "top_logprobs": _top(options)}
    return {key: value for key, value in body.items() if value is not None}


def _top(options: GenerationOptions) -> int:
    needed = {"first_top": TOP_K, "margins": 2}
    return max(options.top_logprobs, *(needed.get(field, 0) for field in options.evidence))


def _usage(stream: bool, rejected: frozenset[str]) -> dict[str, bool]:
    return {"include_usage": True} if stream and "stream_options" not in rejected else {}
