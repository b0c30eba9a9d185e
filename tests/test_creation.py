"""Publishing the app: to a local Dataloop, through the real SDK."""

import json
import logging
import os
import subprocess
import sys

import pytest

import creation
import models
from adapters.platform import manifest
from tests.gateway.auth import write_cookie

ENTRIES = [name.replace("_", "-") for name in models.names()]
FIRST, SECOND, THIRD = "0.1.0", "0.1.1", "0.1.2"


def installed(project):
    """The project's models by name, and by how many entries of that name."""
    return sorted(model.name for model in project.models.list().all())


def apps(project):
    return list(project.apps.list().all())


def code_items(project):
    """The ids of the code archives that the platform keeps."""
    return {item.id for item in project.codebases.list_versions(manifest.NAME).all()}


def run(*arguments, **environment):
    """creation.py as a user runs it; without variables of the SDK but those given."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("DATALOOP", "DTLPY"))}
    command = [sys.executable, "creation.py", *arguments]
    return subprocess.run(
        command, cwd=manifest.ROOT, env=inherited | environment, capture_output=True, text=True, timeout=60
    )


def sentence(capsys):
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(autouse=True)
def sdk_log():
    """The SDK's log, which the command silences, is as loud afterwards as before."""
    log = logging.getLogger("dtlpy")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture
def command(project):
    """Runs creation.py's main with the project named."""
    return lambda *arguments: creation.main(["--project-id", project.id, *arguments])


def test_publishing_registers_a_model_for_every_file(project):
    dpk = creation.package_creation(project)
    assert (dpk.name, dpk.version) == (manifest.NAME, FIRST)
    assert installed(project) == sorted(ENTRIES)
    model = project.models.get(model_name="tiny-talk")
    assert model.configuration["module_name"] == "models.tiny_talk"
    assert (model.status, model.input_type, model.output_type) == ("pre-trained", "text", "text")
    embedding = project.models.get(model_name="bge-small-en-v1-5")
    assert (embedding.output_type, embedding.configuration["embeddings_size"]) == ("embedding", 384)


def test_publishing_sends_the_code_and_nothing_else(project, tmp_path):
    dpk = creation.package_creation(project)
    project.codebases.unpack(codebase_id=dpk.codebase.item_id, local_path=str(tmp_path))
    top = {path.name for path in tmp_path.iterdir()}
    assert top == {"adapters", "engine", "models", "examples", "requirements.txt", "dataloop.json"}
    assert {path.name for path in (tmp_path / "examples").rglob("*") if path.is_dir()} == {
        "tiny_talk",
        "model",
    }
    assert not list(tmp_path.rglob("__pycache__"))
    assert json.loads((tmp_path / "dataloop.json").read_text())["version"] == dpk.version


def test_publishing_again_updates_the_app_to_the_next_version(project):
    creation.package_creation(project)
    dpk = creation.package_creation(project)
    assert dpk.version == SECOND
    assert [app.dpk_version for app in apps(project)] == [SECOND]
    assert installed(project) == sorted(ENTRIES)


def test_a_second_project_gets_a_version_of_its_own(dl, project):
    creation.package_creation(project)
    other = dl.projects.create(project_name="other")
    assert creation.package_creation(other).version == SECOND
    assert installed(other) == sorted(ENTRIES)


def test_publishing_leaves_the_working_directory_as_it_was(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    creation.package_creation(project)
    assert list(tmp_path.iterdir()) == []


def test_only_the_named_models_are_registered(command, project, capsys):
    assert command("--models", "tiny_talk,gpt2") == 0
    assert installed(project) == ["gpt2", "tiny-talk"]
    assert capsys.readouterr().out.split()[-2:] == ["tiny-talk", "gpt2"]


def test_a_project_is_found_by_its_name(project):
    assert creation.main(["--project-name", project.name, "--models", "gpt2"]) == 0
    assert installed(project) == ["gpt2"]


def test_a_dry_run_prints_what_would_be_sent_and_sends_nothing(command, gateway, capsys):
    before = len(gateway.requests)
    assert command("--dry-run", "--models", "gpt2") == 0
    sent = json.loads(capsys.readouterr().out)
    assert sent["dpk"] == manifest.build(["gpt2"])
    assert {"adapters/dataloop.py", "models/gpt2.py", "requirements.txt"} < set(sent["code"])
    assert len(gateway.requests) == before


def test_a_dry_run_of_the_legacy_package_prints_that(capsys):
    assert creation.main(["--dry-run", "--legacy-package", "--models", "gpt2"]) == 0
    package = json.loads(capsys.readouterr().out)["package"]
    assert package["package_type"] == "ml"
    assert package["metadata"]["system"]["ml"]["defaultConfiguration"]["module_name"] == "models.gpt2"


def test_a_dry_run_imports_neither_the_sdk_nor_torch():
    code = (
        "import sys, creation; creation.main(['--dry-run', '--models', 'tiny_talk,gpt2,t0pp'])\n"
        "assert not {'dtlpy', 'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=manifest.ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_legacy_package_is_pushed_and_pushed_again(command, project):
    assert command("--legacy-package", "--models", "gpt2") == 0
    assert command("--legacy-package", "--models", "gpt2") == 0
    (package,) = project.packages.list().all()
    assert package.name == manifest.NAME
    assert package.version == "1.0.1"
    assert [module.entry_point for module in package.modules] == ["adapters/dataloop.py"]
    assert package.metadata["system"]["ml"]["outputType"] == "text"
    assert "transformers" in [requirement.name for requirement in package.requirements]
    assert len(code_items(project)) == 1
    assert apps(project) == []


def test_who_is_not_logged_in_is_told_how(tmp_path):
    done = run("--project-name", "any", **write_cookie(tmp_path / "dataloop"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "creation.py: not logged in: run `dlp login` (or `dlp login-m2m`), then this again"
    ]


def test_a_project_must_be_named(capsys):
    assert creation.main([]) == 2
    assert "--project-name" in sentence(capsys)


@pytest.mark.parametrize("by", ["--project-id", "--project-name"])
def test_a_project_that_does_not_exist_is_named(dl, by, capsys):
    assert creation.main([by, "nowhere"]) == 2
    assert "gave no project 'nowhere'" in sentence(capsys)


def test_an_environment_that_does_not_exist_is_named(command, capsys):
    assert command("--env", "moon") == 2
    assert "'moon'" in sentence(capsys)


def test_a_model_that_does_not_exist_is_named_before_anything_is_sent(command, gateway, capsys):
    before = len(gateway.requests)
    assert command("--models", "gpt5") == 2
    assert "'gpt5'" in sentence(capsys)
    assert len(gateway.requests) == before


def test_a_refused_manifest_leaves_nothing_behind(command, project, gateway, capsys):
    gateway.fail("POST", "^/app-registry$", status=400)
    assert command() == 2
    line = sentence(capsys)
    assert "refused" in line
    assert "Failed on purpose" in line
    assert list(project.dpks.list().all()) == []
    assert apps(project) == []
    assert code_items(project) == set()


def test_a_refused_update_leaves_the_installed_version_whole(command, project, gateway, capsys):
    dpk = creation.package_creation(project)
    gateway.fail("POST", "^/app-registry$", status=400)
    assert command() == 2
    assert [app.dpk_version for app in apps(project)] == [FIRST]
    assert code_items(project) == {dpk.codebase.item_id}


def test_a_refused_installation_says_what_is_there_and_is_made_good_by_the_next_run(
    command, project, gateway, capsys
):
    gateway.fail("POST", "^/apps$", status=400)
    assert command() == 2
    line = sentence(capsys)
    assert f"{manifest.NAME} {FIRST} is published but not installed" in line
    assert command() == 0
    assert [app.dpk_version for app in apps(project)] == [SECOND]
    assert installed(project) == sorted(ENTRIES)


def test_a_refused_upload_publishes_nothing(command, project, gateway, capsys):
    gateway.fail("POST", "/items$", status=400, times=100)
    assert command() == 2
    assert "could not be uploaded" in sentence(capsys)
    assert list(project.dpks.list().all()) == []


def test_a_refused_package_keeps_the_code_of_the_one_before(command, project, gateway, capsys):
    assert command("--legacy-package") == 0
    earlier = code_items(project)
    gateway.fail("PATCH", "^/packages/", status=400)
    assert command("--legacy-package") == 2
    assert "nothing was pushed" in sentence(capsys)
    assert code_items(project) == earlier


def test_the_manifest_is_written_for_all_models_or_not_at_all(capsys):
    with pytest.raises(SystemExit, match="2"):
        creation.main(["--manifest", "--models", "gpt2"])
    assert "leave --models out" in capsys.readouterr().err
