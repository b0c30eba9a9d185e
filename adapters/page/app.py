"""The page as a Gradio app: its components, and what each action of the user calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.hugging import HuggingAdapter
from adapters.page import files, html
from adapters.page.fields import Field, chosen, fields
from adapters.page.session import Conversation, Session
from engine.errors import AdapterError, ConfigurationError

HERE = Path(__file__).parent
# A download that leaves no file on the server: a text and a file's name → the browser's own download.
DOWNLOAD = """(text, name) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = name;
  link.click();
}"""
# Answers do not wait for each other: the engine batches them.
ANSWERING: dict[str, Any] = {"concurrency_limit": None, "trigger_mode": "multiple", "show_progress": "hidden"}
ACTING: dict[str, Any] = {"queue": False, "show_progress": "hidden"}


# The browser asks no other host for anything, whatever is on the page. Gradio evaluates its own templates.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; form-action 'self'"


class Page:
    """The page of some models, side by side. `app` is what Gradio serves."""

    def __init__(self, models: Mapping[str, HuggingAdapter]) -> None:
        """Builds the app; nothing is served yet.

        Args:
            models: loaded, by the names to show.
        """
        self._models = models
        # Of the first model: an empty field leaves each model its own configuration.
        self._fields = fields(next(iter(models.values())).configuration.generation)
        with gr.Blocks(
            title=" and ".join(self._models), analytics_enabled=False, fill_height=True
        ) as self.app:
            self._session = gr.State(Session([[] for _ in models]))
            self._options = _options(self._fields)
            with gr.Row(elem_classes="columns"):
                self._chatbots = [_chatbot(name, model) for name, model in models.items()]
            self._status = gr.HTML(elem_id="status")
            question = gr.Textbox(
                label="Question",
                show_label=False,
                placeholder="Ask something",
                submit_btn=True,
                autofocus=True,
                max_lines=8,
                elem_id="question",
            )
            with gr.Row():
                self._connect_question(question)
                self._connect_file()
                self._connect_saving()

    def _connect_question(self, question: gr.Textbox) -> None:
        stop = gr.Button("Stop", size="sm", min_width=120)
        clear = gr.Button("New conversation", size="sm", min_width=120)

        def ask(session: Session, text: str) -> list[Any]:
            if text.strip():
                session.ask(text)
            return [*self._shown(session), ""]

        def example(session: Session, data: gr.SelectData) -> list[Any]:
            session.ask(data.value["text"])
            return self._shown(session)

        def retry(session: Session, data: gr.RetryData) -> list[Any]:
            session.retry(_index(data))
            return self._shown(session)

        def edit(session: Session, data: gr.EditData) -> list[Any]:
            session.edit(_index(data), html.typed(str(data.value)))
            return self._shown(session)

        def undo(session: Session, data: gr.UndoData) -> list[Any]:
            text = session.undo(_index(data))
            return [*self._shown(session), text]

        def end(session: Session) -> list[Any]:
            session.stop()
            return self._shown(session)

        def begin(session: Session) -> list[Any]:
            session.clear()
            return self._shown(session)

        self._answered(question.submit(ask, [self._session, question], [*self._chatbots, question], **ACTING))
        for chatbot in self._chatbots:
            for event, act in (
                (chatbot.example_select, example),
                (chatbot.retry, retry),
                (chatbot.edit, edit),
            ):
                self._answered(event(act, self._session, self._chatbots, api_visibility="private", **ACTING))
            chatbot.clear(begin, self._session, self._chatbots, api_visibility="private", **ACTING)
            chatbot.undo(undo, self._session, [*self._chatbots, question], api_visibility="private", **ACTING)
        stop.click(end, self._session, self._chatbots, api_name="stop", **ACTING)
        clear.click(begin, self._session, self._chatbots, api_name="clear", **ACTING)

    def _connect_file(self) -> None:
        file = gr.UploadButton("Open a prompt item", file_types=[".json"], size="sm", min_width=120)
        key = gr.Dropdown([], label="Conversation of the file", interactive=True, visible=False)
        back = gr.Button("Previous", size="sm", min_width=120, visible=False)
        onward = gr.Button("Next", size="sm", min_width=120, visible=False)

        def opened(session: Session, path: str) -> list[Any]:
            try:
                session.open(files.opened(Path(path).read_bytes(), Path(path).name, list(self._models)))
            except (AdapterError, OSError) as error:
                skipped = [gr.skip()] * 3
                return [*self._shown(session), f'<p role="alert">{escape(str(error))}</p>', *skipped]
            keys = list(session.opened)
            walking = gr.update(visible=len(keys) > 1)
            chooser = gr.Dropdown(keys, value=keys[0], visible=len(keys) > 1)
            return [*self._shown(session), "", chooser, walking, walking]

        def show(session: Session, name: str) -> list[Any]:
            session.show(name)
            return self._shown(session)

        def step(by: int) -> Callable[[Session], list[Any]]:
            def walk(session: Session) -> list[Any]:
                key = session.step(by)
                return [*self._shown(session), key]

            return walk

        for event in (
            file.upload(
                opened,
                [self._session, file],
                [*self._chatbots, self._status, key, back, onward],
                api_name="open",
                **ACTING,
            ),
            key.input(show, [self._session, key], self._chatbots, api_name="show", **ACTING),
            back.click(step(-1), self._session, [*self._chatbots, key], api_name="previous", **ACTING),
            onward.click(step(1), self._session, [*self._chatbots, key], api_name="next", **ACTING),
        ):
            self._answered(event)

    def _connect_saving(self) -> None:
        text, name = gr.Textbox(visible=False), gr.Textbox(visible=False)

        def item(session: Session) -> tuple[str, str]:
            return _json(files.as_item(self._by_name(session))), "item.json"

        def conversation(session: Session) -> tuple[str, str]:
            return _json(files.as_json(self._by_name(session))), "conversation.json"

        for label, save in (("Save as a prompt item", item), ("Save as JSON", conversation)):
            saved = gr.Button(label, size="sm", min_width=120).click(
                save, self._session, [text, name], api_name=f"save_{save.__name__}", **ACTING
            )
            saved.then(None, [text, name], js=DOWNLOAD)

    def _answered(self, event: Any) -> None:
        """After an event, every model answers what is open in its conversation."""
        for i, name in enumerate(self._models):
            inputs = [self._session, *self._options]
            event.then(
                self._answering(i, name), inputs, self._chatbots[i], api_name=f"answer_{i + 1}", **ANSWERING
            )

    def _answering(self, i: int, name: str) -> Callable[..., Iterator[list[dict[str, Any]]]]:
        model = self._models[name]

        def answer(session: Session, *values: str | None) -> Iterator[list[dict[str, Any]]]:
            try:
                given = chosen(model.configuration.generation, self._fields, values)
                options, certainty = model.prepared(given)
            except AdapterError as error:
                session.fail(i, error)
            else:
                for conversation in session.answer(i, model.engine, options, certainty):
                    yield html.messages(conversation)
            # Gradio clears the outputs of a generator that yields nothing.
            yield self._shown(session)[i]

        return answer

    def _by_name(self, session: Session) -> dict[str, Conversation]:
        return dict(zip(self._models, session.conversations, strict=True))

    def _shown(self, session: Session) -> list[Any]:
        """The conversations as values of the chatbots."""
        return [html.messages(conversation) for conversation in session.conversations]


def _chatbot(name: str, model: HuggingAdapter) -> gr.Chatbot:
    return gr.Chatbot(
        label=name,
        examples=[{"text": text} for text in model.examples],
        # Nothing that a user or a model writes is read as Markdown, HTML or LaTeX.
        render_markdown=False,
        latex_delimiters=[],
        allow_tags=False,
        group_consecutive_messages=False,
        editable="user",
        buttons=[],
        feedback_options=None,
        height="60vh",
        elem_classes="conversation",
    )


def _options(named: Sequence[Field]) -> list[Any]:
    """The form of the options, at the side."""
    with gr.Sidebar(position="right", label="Options"):
        gr.Markdown("Options: an empty field leaves what the model's configuration says.")
        return [_option(field) for field in named]


def _option(field: Field) -> Any:
    about: dict[str, Any] = {
        "label": field.name,
        "info": field.description,
        "elem_id": f"option-{field.name}",
    }
    if field.kind == "choice":
        unset = (f"as configured: {field.value or 'not set'}", "")
        return gr.Dropdown([unset, *field.choices], value="", **about)
    return gr.Textbox(placeholder=field.value or "not set", lines=2 if field.kind == "lines" else 1, **about)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _index(data: gr.RetryData | gr.EditData | gr.UndoData) -> int:
    """The index of the message that an action is about."""
    return data.index if isinstance(data.index, int) else data.index[0]


def serve(app: gr.Blocks, host: str, port: int) -> gr.Blocks:
    """Serves an app in threads of this process.

    Raises:
        ConfigurationError: the port is taken.
    """
    try:
        app.launch(
            server_name=host,
            server_port=port,
            app_kwargs={"middleware": [Middleware(_Policy)]},
            css_paths=HERE / "page.css",
            js=(HERE / "page.js").read_text(encoding="utf-8"),
            footer_links=[],
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            max_file_size="10mb",
        )
    except OSError:
        raise ConfigurationError(f"{host}:{port} is taken, or no address here: give another --port") from None
    return app


class _Policy:
    """ASGI middleware: adds the content security policy to each response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY)]
            await send(message)

        await self._app(scope, receive, sending)
