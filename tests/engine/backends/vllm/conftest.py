"""TinyTalk here, and by vLLM: the one of the interpreter VLLM_PYTHON, else a stand-in."""

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import models
from engine.backends.local import LocalEngine
from engine.backends.vllm.engine import VLLMEngine
from engine.configuration import split
from tests.helpers.servers import fake_vllm, vllm_api
from tests.helpers.servers.vllm_api import VLLMApi

REAL = os.environ.get("VLLM_PYTHON")
TINY_TALK = models.find("tiny_talk").model_name
Engines = Callable[..., VLLMEngine]


@pytest.fixture(scope="package")
def local() -> LocalEngine:
    """TinyTalk in this process."""
    engine = models.load("tiny_talk", {"dtype": "float32", "device": "cpu"}).engine
    assert isinstance(engine, LocalEngine)
    return engine


@pytest.fixture(scope="package")
def api(local: LocalEngine) -> VLLMApi:
    """What the stand-in answers with."""
    return VLLMApi(local)


@pytest.fixture(scope="package")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stand-in notes of each start."""
    return tmp_path_factory.mktemp("vllm") / "notes.jsonl"


@pytest.fixture(scope="package")
def fake(api: VLLMApi, notes: Path) -> Iterator[str]:
    """The stand-in's path, as `vllm_python` takes it."""
    program = notes.with_name("python")
    source = Path(fake_vllm.__file__).read_text(encoding="utf-8")
    program.write_text(f"#!{sys.executable} -I\n{source}", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    with vllm_api.serving(api) as port, pytest.MonkeyPatch.context() as environment:
        environment.setenv("FAKE_VLLM_API", str(port))
        environment.setenv("FAKE_VLLM_NOTES", str(notes))
        yield str(program)


def start(python: str, task: Any = "generate", **options: Any) -> VLLMEngine:
    """TinyTalk by vLLM."""
    real = {"vllm_args": ["--enforce-eager"]} if python == REAL else {}
    given = {"backend": "vllm", "model_name": TINY_TALK, "dtype": "float32", "vllm_python": python}
    configuration = split(given | real | options)
    assert configuration.load is not None
    assert configuration.vllm is not None
    return VLLMEngine(configuration.load, configuration.vllm, configuration.endpoint, task)


@pytest.fixture(scope="package")
def vllm(request: pytest.FixtureRequest) -> Iterator[VLLMEngine]:
    """TinyTalk by vLLM, started once for all tests."""
    engine = start(REAL or request.getfixturevalue("fake"))
    yield engine
    engine.close()


@pytest.fixture
def engines(fake: str) -> Iterator[Engines]:
    """Starts the stand-in, with options."""
    started: list[VLLMEngine] = []

    def make(**options: Any) -> VLLMEngine:
        started.append(start(fake, **options))
        return started[-1]

    yield make
    for engine in started:
        engine.close()


@pytest.fixture
def noted(notes: Path) -> Callable[[], dict[str, Any]]:
    """What the stand-in has noted of its last start."""
    return lambda: json.loads(notes.read_text(encoding="utf-8").splitlines()[-1])
