"""`show`: a model's configuration, where each value comes from, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters import model_file, registry
from adapters.cli.cache import folder_of, size_in
from adapters.cli.options import Settings, named
from adapters.cli.output import Output, printing
from engine.errors import AdapterError

if TYPE_CHECKING:
    from adapters.hugging import HuggingAdapter
    from engine.options import LoadOptions, Options

HEADERS = ("option", "value", "from")


def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As --model of predict has it.")],
    settings: Settings = None,
    all_options: Annotated[bool, typer.Option("--all", help="Options that have their default, too.")] = False,
) -> int:
    """Show a model's options. Tells where each value comes from, and whether the model fits into memory.

    No weights are read, and nothing is downloaded.
    """
    with printing() as output:
        stem, configuration = named(model, settings)
        adapter = registry.make(stem, configuration)
        file = model_file.read(registry.FOLDER / f"{stem}.py")
        output.write(f"{stem}: {output.shown(file.summary)}\n\n")
        from adapters.hugging import HuggingAdapter

        if not isinstance(adapter, HuggingAdapter):
            output.write("Its file has a class of its own, which reads its configuration by itself.\n")
            return 0
        output.table(HEADERS, _options(adapter, stem, configuration, all_options))
        output.write("\n" + _memory(adapter, file.size, output))
    return 0


def _options(
    adapter: HuggingAdapter, stem: str, configuration: Mapping[str, Any], all_options: bool
) -> Iterator[tuple[str, str, str]]:
    from engine.configuration import KINDS, canonical

    file = f"models/{stem}.py"
    named_by_file = {"model_name": file} if adapter.model_name else {}
    origins = (
        named_by_file
        | dict.fromkeys(_own(adapter.defaults), file)
        | dict.fromkeys(canonical(configuration), "command line")
    )
    if "model_name" not in origins:
        origins["model_name"] = "environment"
    parts: list[Options | None] = [
        adapter.configuration.adapter,
        adapter.configuration.endpoint,
        adapter.configuration.vllm,
        adapter.configuration.load,
    ]
    parts += [adapter.configuration.generation, adapter.configuration.embedding]
    told = set()
    for kind, part in zip(KINDS, parts, strict=True):
        for key in kind.model_fields:
            if part is None or key in told:
                continue
            told.add(key)
            value = getattr(part, key)
            origin = origins.get(key, "default") if key in part.model_fields_set else "default"
            if all_options or origin != "default":
                yield key, str(value), origin


def _own(defaults: Mapping[str, Any]) -> dict[str, Any]:
    from engine.configuration import PLATFORM_KEYS, canonical

    return canonical({key: value for key, value in defaults.items() if key not in PLATFORM_KEYS})


def _memory(adapter: HuggingAdapter, size: str | None, output: Output) -> str:
    options = adapter.configuration.load
    if options is None:
        return "memory: none here, a server answers.\n"
    folder = folder_of(options.local_path or options.model_name)
    if folder is None:
        return _by_size(options.model_name, size)
    from engine.loading import memory_footprint

    here = options.model_copy(update={"local_path": str(folder)})
    try:
        footprint = memory_footprint(here, adapter.task)
    except AdapterError as error:
        return f"memory: unknown, {output.shown(str(error))}\n"
    if footprint is None:
        return "memory: unknown, its checkpoint is quantized already.\n"
    return f"{footprint}\n{_verdict(footprint, options)}\n{_weights(options)}"


def _by_size(model_name: str, size: str | None) -> str:
    """An estimate for a model that is not on this machine, from the number of parameters in its file."""
    absent = f"{model_name} is not on this machine: the first load downloads it"
    if size is None:
        return f"memory: unknown, {absent}, and checks its memory before the weights.\n"
    import torch

    from engine.memory import format_bytes, free_memory

    value, unit = size.split()
    half = round(float(value) * {"M": 1e6, "B": 1e9}[unit]) * 2
    free = free_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    fits = "It fits here" if half <= free else "It does not fit here unless load_in_4bit is set, if then"
    return (
        f"weights: about {format_bytes(half)} in half precision, twice as much in float32; "
        f"{format_bytes(free)} free. {fits}. {absent}.\n"
    )


def _verdict(footprint: Any, options: LoadOptions) -> str:
    try:
        footprint.check_fits(options)
    except AdapterError as error:
        return f"It does not fit: {error}"
    return "It fits here."


def _weights(options: LoadOptions) -> str:
    if size_in(options.local_path or options.model_name) is None:
        return "Its weights are not here: the first load downloads them.\n"
    return ""
