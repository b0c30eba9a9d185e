"""pytest fixtures: a gateway for each test, and the SDK logged in to it.

Loaded as a pytest plugin. It points DATALOOP_PATH at a temporary folder: the SDK reads it at import, and
would else write to the user's home.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.gateway.auth import sdk_environment, write_cookie

# A folder for the SDK of this process (of each worker, under xdist), before a conftest imports the SDK.
_FOLDER = tempfile.mkdtemp(prefix="dataloop-")
os.environ.update(write_cookie(Path(_FOLDER)))


def pytest_unconfigure() -> None:
    """Remove that folder."""
    shutil.rmtree(_FOLDER, ignore_errors=True)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A fresh, empty gateway. The test fails if anybody asked it for a route that it does not know."""
    with Gateway() as gateway:
        yield gateway
        unknown = [f"{request.method} {request.path}" for request in gateway.unknown]
    assert not unknown, f"The gateway has no route for: {', '.join(unknown)}"


@pytest.fixture
def dl(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The SDK, logged in to the gateway of this test."""
    import dtlpy
    from dtlpy.services import api_client

    # For each request it looks up the source of every frame above, a quarter of a second under pytest, and
    # does nothing with it.
    monkeypatch.setattr(api_client, "inspect", SimpleNamespace(stack=lambda: [None, None]))
    dtlpy.client_api.environments = {gateway.url: sdk_environment(gateway.url, gateway.token())}
    dtlpy.setenv(gateway.url)
    return dtlpy


@pytest.fixture
def project(dl: ModuleType) -> Any:
    """A `dl.Project` on the gateway."""
    return dl.projects.create(project_name="project")


@pytest.fixture
def dataset(project: Any) -> Any:
    """An empty `dl.Dataset` in the project."""
    return project.datasets.create(dataset_name="dataset")
