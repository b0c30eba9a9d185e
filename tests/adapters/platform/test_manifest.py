"""dataloop.json: it says what the repository has, and nothing that it has not."""

import inspect
import json
import tomllib

import pytest

import models
from adapters import dataloop, registry
from adapters.platform import manifest
from engine.errors import ConfigurationError

WRITTEN = (manifest.ROOT / "dataloop.json").read_text(encoding="utf-8")
# A user's own files need no entry: `make docs` gives them one.
LISTED = [entry["configuration"]["module_name"] for entry in json.loads(WRITTEN)["components"]["models"]]
BUILT = manifest.build(LISTED)
COMPONENTS = BUILT["components"]

OWN = """class HuggingAdapter:
    def __init__(self, configuration): ...
    def predict(self, batch, **kwargs): ...
"""


def entries(built=BUILT):
    return {entry["name"]: entry for entry in built["components"]["models"]}


def write_model(folder, name, source):
    (folder / f"{name}.py").write_text(source)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty models folder."""
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    return tmp_path


def test_the_file_is_up_to_date():
    assert manifest.dumps(BUILT) == WRITTEN, "run: make docs"


def test_the_project_has_one_version():
    project = tomllib.loads((manifest.ROOT / "pyproject.toml").read_text())["project"]
    assert BUILT["version"] == project["version"]


def test_dataloop_finds_the_manifest():
    config = json.loads((manifest.ROOT / ".dataloop.cfg").read_text())
    assert config == {"manifests": ["dataloop.json"], "public_app": False}


def test_every_entry_names_a_model_file():
    modules = {entry["configuration"]["module_name"] for entry in COMPONENTS["models"]}
    assert modules <= {f"models.{name}" for name in models.names()}
    assert all(entry["description"] for entry in COMPONENTS["models"])


def test_large_models_run_on_a_gpu_and_the_others_on_a_cpu():
    modules = {name: entry["moduleName"] for name, entry in entries().items()}
    large = ["meta-llama-3-8b-instruct", "mistral-7b-instruct-v0-3", "open-llama-3b", "phi-3-5-mini-instruct"]
    assert {name for name, module in modules.items() if module == manifest.GPU_MODULE} == {*large, "t0pp"}
    assert set(modules.values()) == {manifest.MODULE, manifest.GPU_MODULE}
    configs = {config["name"]: config["runtime"] for config in COMPONENTS["computeConfigs"]}
    used = {module["name"]: configs[module["computeConfig"]] for module in COMPONENTS["modules"]}
    assert used[manifest.MODULE]["podType"].startswith("regular-")
    assert used[manifest.GPU_MODULE]["podType"].startswith("gpu-")
    assert "/gpu:python3.12" in used[manifest.GPU_MODULE]["runnerImage"]
    assert {module["computeConfig"] for module in COMPONENTS["modules"]} == set(configs)
    one, other = ({**module, "name": "", "computeConfig": ""} for module in COMPONENTS["modules"][:2])
    assert one == other


def test_the_node_of_a_pipeline_calls_a_function_that_is_declared_with_its_ports():
    [node] = COMPONENTS["pipelineNodes"]
    app, module, function = node["invoke"]["namespace"].split(".")
    assert (app, node["invoke"]["type"], node["scope"]) == (BUILT["name"], "function", "node")
    [declared] = [
        one
        for known in COMPONENTS["modules"]
        if known["name"] == module
        for one in known["functions"]
        if one["name"] == function
    ]
    assert [port["name"] for port in declared["output"]] == ["items", "annotations"]


def test_an_entry_says_what_its_file_says():
    gpt2 = entries()["gpt2"]
    adapter = models.find("gpt2")
    assert gpt2["configuration"] == {
        "module_name": "models.gpt2",
        "model_name": adapter.model_name,
        **adapter.defaults,
    }
    assert gpt2["description"].startswith("GPT-2 (124 M)")


@pytest.mark.parametrize("weights", ["/somewhere/on/this/machine", "examples"])
def test_a_folder_of_this_machine_is_not_sent_as_a_model_name(folder, weights):
    write_model(folder, f"local_{len(weights)}", f"{OWN}    model_name = {weights!r}\n")
    (entry,) = manifest.build()["components"]["models"]
    assert "model_name" not in entry["configuration"]


def test_the_embedded_model_is_found_by_its_file_alone():
    assert entries()["tiny-talk"]["configuration"].keys() == {
        "module_name",
        "max_new_tokens",
        "embeddings_size",
    }


def test_the_model_to_be_named_by_the_user_has_no_name_yet():
    assert "model_name" not in entries()["auto-causal-lm"]["configuration"]


def test_the_module_has_the_functions_that_work_and_runs_where_a_compute_config_says():
    module, *_ = COMPONENTS["modules"]
    assert (module["entryPoint"], module["className"]) == ("adapters/dataloop.py", "ModelAdapter")
    assert module["integrations"] == ["dl-huggingface-api-key"]
    ports = {
        function["name"]: [
            [(port["name"], port["type"]) for port in function[way]] for way in ("input", "output")
        ]
        for function in module["functions"]
    }
    items, of_dataset = [("items", "Item[]")], [("dataset", "Dataset"), ("filters", "Json")]
    assert ports == {
        "predict_items": [items, [*items, ("annotations", "Annotation[]")]],
        "predict_dataset": [of_dataset, []],
        "create_prompt_items": [of_dataset, [("dataset", "Dataset")]],
        "evaluate_model": [
            [("model", "Model"), *of_dataset],
            [("model", "Model"), ("dataset", "Dataset")],
        ],
        "embed_items": [items, [*items, ("features", "Json")]],
        "embed_dataset": [of_dataset, []],
    }
    adapter = dataloop.ModelAdapter
    for name, (inputs, _) in ports.items():
        parameters = inspect.signature(getattr(adapter, name)).parameters
        assert {port for port, _ in inputs} <= parameters.keys()
    pods = {config["name"]: config["runtime"]["podType"] for config in COMPONENTS["computeConfigs"]}
    assert module["computeConfig"] == "cpu"
    assert pods["cpu"].startswith("regular-")
    assert pods["gpu"].startswith("gpu-")


def test_the_manifest_is_one_that_the_sdk_reads():
    from dtlpy.entities import Dpk

    dpk = Dpk.from_json(json.loads(manifest.dumps(BUILT)))
    assert [module.name for module in dpk.components.modules] == [
        manifest.MODULE,
        manifest.GPU_MODULE,
        manifest.SERVER,
    ]
    assert [node["name"] for node in dpk.components.pipeline_nodes] == [manifest.NODE]
    assert [config.name for config in dpk.components.compute_configs] == ["cpu", "gpu"]


def test_the_image_is_built_from_the_runner_that_the_manifest_names():
    dockerfile = (manifest.ROOT / "Dockerfile").read_text()
    assert f"FROM {manifest.RUNNER_IMAGE}\n" in dockerfile
    assert "\nUSER 1000\n" in dockerfile
    assert "CMD" not in dockerfile


def test_a_model_is_said_to_answer_or_to_embed_as_its_file_says():
    for entry in COMPONENTS["models"]:
        embeds = models.find(entry["configuration"]["module_name"]).task == "embed"
        assert (entry["inputType"], entry["outputType"]) == ("text", "embedding" if embeds else "text")
        assert ("embedding" in entry["tags"]) is embeds
        assert entry["labels"] == ([] if embeds else ["q"])
    assert entries()["bge-small-en-v1-5"]["outputType"] == "embedding"
    assert "Embeddings" in BUILT["attributes"]["NLP"]


def test_every_model_whose_weights_are_known_says_how_long_its_vectors_are():
    unnamed = {"auto-causal-lm", "inference-endpoint"}
    sizes = {
        name: entry["configuration"].get("embeddings_size")
        for name, entry in entries().items()
        if name not in unnamed
    }
    assert all(sizes.values()), sizes
    assert sizes["all-minilm-l6-v2"] == sizes["bge-small-en-v1-5"] == 384
    assert "embeddings_size" not in entries()["auto-causal-lm"]["configuration"]


def test_chosen_models_come_in_the_order_given_however_they_are_spelled():
    built = manifest.build(["models.tiny_talk", "GPT2", "open-llama-3b"])
    assert list(entries(built)) == ["tiny-talk", "gpt2", "open-llama-3b"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [(["gpt5"], "'gpt5'"), ([""], "no model ''"), ([], "no model is named"), (["gpt2", "GPT2"], "twice")],
)
def test_models_that_cannot_be_chosen_are_refused_with_those_that_can(names, reason):
    with pytest.raises(ConfigurationError, match=reason) as refusal:
        manifest.build(names)
    assert "tiny_talk" in str(refusal.value)


@pytest.mark.parametrize("path", ["adapters/nothing.py", "../creation.py", "adapters"])
def test_an_entry_point_is_a_file_of_the_repository(path):
    with pytest.raises(ConfigurationError, match="entry point"):
        manifest.build(entry_point=path)


def test_a_users_own_file_needs_no_base_class_and_no_description(folder):
    write_model(folder, "my-own", OWN)
    (entry,) = manifest.build()["components"]["models"]
    assert entry["name"] == "my-own"
    assert entry["configuration"] == {"module_name": "models.my-own"}


def test_a_file_that_cannot_be_imported_is_named(folder):
    write_model(folder, "broken_file", "import nothing_of_that_name\n")
    with pytest.raises(ConfigurationError, match=r"broken_file\.py cannot be imported.*nothing_of_that_name"):
        manifest.build()
