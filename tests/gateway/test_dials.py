"""The local Dataloop itself: who may ask, what it logs, how it fails on purpose, what it leaves behind."""

import json
import math
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

import pytest

from tests.gateway import Gateway, store


def ask(gateway, path, token=None, method="GET"):
    """One request without the SDK (which tries some answers again): the status and the JSON."""
    headers = {"Authorization": f"Bearer {token or gateway.token()}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(gateway.url + path, headers=headers, method=method)
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_sdk_logs_in_from_the_environment_alone(gateway, project, tmp_path):
    code = "import dtlpy as dl; print(dl.projects.get(project_name='project').id, dl.info()['user_email'])"
    env = os.environ | gateway.environment(tmp_path / "dataloop") | {"HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == [project.id, "tester@example.com"]
    assert not (tmp_path / "home").exists()


def test_tokens_are_checked(gateway):
    expired = gateway.token(expires_in=-1)
    assert ask(gateway, "/projects", expired) == (401, {"message": "Expired token: log in again"})
    assert ask(gateway, "/projects", "nonsense")[0] == 401
    assert ask(gateway, "/users/me")[1]["email"] == "tester@example.com"


def test_two_gateways_share_nothing(gateway):
    with Gateway() as other:
        assert other.url != gateway.url
        assert ask(other, "/projects", gateway.token())[0] == 401
        other.fail(times=math.inf)
        assert ask(other, "/projects")[0] == 503
        assert ask(gateway, "/projects") == (200, [])


def test_an_unknown_route_is_answered_501_and_remembered():
    with Gateway() as gateway:
        status, answer = ask(gateway, "/pipelines/1", method="DELETE")
        assert (status, answer["message"]) == (501, "The gateway has no route DELETE /pipelines/1")
        assert [(r.method, r.path) for r in gateway.unknown] == [("DELETE", "/pipelines/1")]


def test_an_unknown_route_fails_the_test_that_made_it(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import requests\n\n"
        "def test_it(gateway):\n"
        "    headers = {'Authorization': f'Bearer {gateway.token()}'}\n"
        "    requests.get(gateway.url + '/pipelines', headers=headers)\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.gateway.fixtures",
        "-c",
        os.devnull,
        str(tmp_path),
    ]
    root = Path(__file__).parents[2]
    done = subprocess.run([*command, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert "The gateway has no route for: GET /pipelines" in done.stdout
    assert done.returncode == 1


def test_every_request_is_logged(dl, gateway, project):
    del gateway.requests[:]
    project.datasets.create(dataset_name="data")
    (request,) = gateway.requests
    assert (request.method, request.path, request.status) == ("POST", "/datasets", 200)
    assert (request.json["name"], request.user) == ("data", "tester@example.com")


def test_latency_delays_every_request(gateway):
    gateway.latency = 0.2
    start = time.perf_counter()
    ask(gateway, "/projects")
    assert time.perf_counter() - start >= 0.2


def test_the_nth_request_fails_before_it_took_effect(dl, gateway, project):
    gateway.fail("POST", "^/datasets$", nth=2, status=500)
    project.datasets.create(dataset_name="one")
    with pytest.raises(dl.exceptions.InternalServerError, match="on purpose"):
        project.datasets.create(dataset_name="two")
    project.datasets.create(dataset_name="three")
    assert [d.name for d in project.datasets.list()] == ["one", "three"]


def test_a_request_fails_after_it_took_effect(dl, gateway, project):
    fault = gateway.fail("POST", "^/datasets$", status=503, when="after")
    project.datasets.create(dataset_name="twice")  # the SDK tries a 503 again, and so stores it twice
    assert fault.seen == 2
    assert [d.name for d in project.datasets.list()] == ["twice", "twice"]


@pytest.mark.parametrize(("when", "stored"), [("before", 1), ("after", 2)])
def test_a_connection_is_dropped(gateway, project, when, stored):
    gateway.fail("POST", "^/datasets$", drop=True, when=when)
    project.datasets.create(dataset_name="data")
    assert [r.status for r in gateway.sent("POST", "^/datasets$")] == [0, 200]
    assert len(project.datasets.list()) == stored


def test_headers_of_a_failure(gateway):
    gateway.fail(status=429, headers={"Retry-After": "7"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(gateway.url)
    assert caught.value.code == 401  # an unknown user cannot trip a fault
    assert ask(gateway, "/projects")[0] == 429


@pytest.mark.parametrize(("when", "body"), [("before", b"<>"), ("after", b"<{}>")])
def test_a_garbled_answer(gateway, dataset, when, body):
    gateway.fail("DELETE", when=when, status=200, garble=lambda answer: b"<" + answer + b">")
    request = urllib.request.Request(f"{gateway.url}/datasets/{dataset.id}", method="DELETE")
    request.add_header("Authorization", f"Bearer {gateway.token()}")
    with urllib.request.urlopen(request) as response:
        assert (response.status, response.read()) == (200, body)


def test_a_clock_that_is_off(monkeypatch):
    monkeypatch.setattr(store, "unsteady", 1000.0)
    dates = [datetime.fromisoformat(store.now()) for _ in range(20)]
    assert dates != sorted(dates)


def test_a_stopped_gateway_leaves_nothing_behind():
    gateway = Gateway().start()
    folder = Path(gateway._folder)
    assert folder.is_dir()
    gateway.stop()
    gateway.stop()
    assert not folder.exists()
    with pytest.raises(urllib.error.URLError, match="refused"):
        ask(gateway, "/projects")


def test_a_taken_port_is_an_error(gateway):
    with pytest.raises(OSError, match="address already in use"):
        Gateway(port=gateway.port).start()


def test_the_gateway_runs_by_hand(tmp_path):
    command = [sys.executable, "-m", "tests.gateway"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert "http://127.0.0.1:" in process.stdout.readline()
        exported = process.stdout.readline()
        assert exported.startswith("export DATALOOP_PATH=")
        folder = Path(exported.strip().partition("=")[2])
        assert (folder / "cookie.json").exists()
        process.terminate()
    assert process.returncode == 0
    assert not folder.exists()
