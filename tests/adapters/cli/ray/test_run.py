"""`predict --ray` on a real cluster of two nodes, with a server that answers for the model."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.cli import main
from adapters.cli.ray.parts import Parts
from adapters.cli.ray.run import Replicas
from engine.errors import ConfigurationError
from tests.helpers.servers.misbehaving import Server

ITEMS = 24


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(server: Server) -> Iterator:
    """Two nodes with a core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        running = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        running.add_node(num_cpus=1)
        patch.setenv("RAY_ADDRESS", running.address)
        yield running
        running.shutdown()


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """A folder of items, the last one no JSON."""
    folder = tmp_path / "items"
    folder.mkdir()
    for i in range(ITEMS):
        prompt = {"1": {"mimetype": "application/text", "value": f"word {i}"}}
        (folder / f"{i:03}.json").write_text(json.dumps({"prompts": {"first": prompt}}))
    (folder / "999.json").write_text("{")
    return folder


def predict(items: Path, out: Path, server: Server, *more: str) -> int:
    chosen = [f"base_url={server.url}/v1", "model_name=talk", "api=openai", "retries=0"]
    settings = [word for setting in chosen for word in ("--set", setting)]
    words = ["predict", str(items), "--ray", "--out", str(out), "--model", "inference_endpoint"]
    return main([*words, *settings, *more])


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.ray
def test_each_item_is_answered_once_or_listed_though_a_node_dies(
    cluster, items: Path, server: Server, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    out, kept = tmp_path / "answers.jsonl", Parts.add
    node = cluster.add_node(num_cpus=1)

    def killing(parts: Parts, found: list[dict]) -> None:
        if len(cluster.list_all_nodes()) == 3:
            cluster.remove_node(node, allow_graceful=False)
        kept(parts, found)

    monkeypatch.setattr(Parts, "add", killing)
    assert predict(items, out, server) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert f"{ITEMS} of {ITEMS + 1} items are answered: {out}" in told.err
    assert "999.json: is not JSON" in told.err
    assert [Path(row["item"]).stem for row in rows(out)] == [*(f"{i:03}" for i in range(ITEMS)), "999"]
    assert [row["answer"] for row in rows(out)] == [*(f"WORD {i}" for i in range(ITEMS)), None]

    # Again, with the bad item mended and a good one's answer lost: these two are asked, and no other.
    (items / "999.json").write_text((items / "000.json").read_text())
    out.write_text("".join(line for line in out.read_text().splitlines(True) if "007.json" not in line))
    server.asked.clear()
    assert predict(items, out, server) == 0
    assert Counter(asked.body["messages"][-1]["content"] for asked in server.asked) == {
        "word 0": 1,
        "word 7": 1,
    }
    assert (
        f"{ITEMS + 1} of {ITEMS + 1} items are answered, {ITEMS - 1} of them before"
        in capsys.readouterr().err
    )
    assert [row["error"] for row in rows(out)] == [None] * (ITEMS + 1)


@pytest.mark.slow
@pytest.mark.ray
def test_what_is_wrong_for_every_item_ends_the_run(
    cluster, items: Path, server: Server, tmp_path: Path, capsys
):
    out = tmp_path / "answers.jsonl"
    assert predict(items, out, server, "--set", "confidence=calibrated") == 2
    assert "error: option 'confidence' needs calibration.json" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a.json", "--ray"], "--ray writes lines of JSON: give --out FILE.jsonl"),
        (["a.json", "--ray", "--out", "a.csv"], "give --out FILE.jsonl"),
        (["a.jsonl", "--ray", "--out", "b.jsonl"], "files of one prompt item each (.json), not 'a.jsonl'"),
        (["-", "--ray", "--out", "b.jsonl"], "files of one prompt item each (.json), not '-'"),
        (["a.json", "--ray", "--json"], "--json and --ray exclude each other"),
        (["a.json", "--ray", "--replicas", "0"], "--replicas"),
    ],
)
def test_wrong_usage_is_a_sentence(words: list[str], told: str, capsys):
    assert main(["predict", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("replicas", "resources", "count"),
    [
        (Replicas(), {"CPU": 8.0}, 8),
        (Replicas(cpus=4), {"CPU": 8.0}, 2),
        (Replicas(cpus=1, gpus=1), {"CPU": 8.0, "GPU": 2.0}, 2),
        (Replicas(cpus=0, gpus=0.5), {"GPU": 2.0}, 4),
        (Replicas(count=3), {"CPU": 8.0}, 3),
        (Replicas(count=30), {"CPU": 8.0}, 8),
    ],
)
def test_as_many_replicas_as_fit(replicas: Replicas, resources: dict, count: int):
    assert replicas.on(resources) == count


def test_a_replica_that_no_cluster_holds_is_refused():
    with pytest.raises(ConfigurationError, match="the cluster has 8 CPU, 0 GPU, less than one replica"):
        Replicas(gpus=1).on({"CPU": 8.0})
