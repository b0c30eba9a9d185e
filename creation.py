"""Publishes this app to a Dataloop project and installs it, so that its models appear there.

python creation.py --project-name "My project"      publish, then install or update
python creation.py --manifest                       write dataloop.json anew
python creation.py --add owner/name                 add a model of the hub: its file in models/, and all else
"""

import argparse
import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters import new_model
from adapters.platform import manifest
from engine import redaction
from engine.errors import AdapterError

if TYPE_CHECKING:
    import dtlpy as dl

# What the platform needs to run a model; nothing else of the repository is sent.
SHIPPED = ("adapters", "engine", "models", "examples/tiny_talk/model", "requirements.txt")


class CreationError(AdapterError):
    """Something that keeps the app from being published."""


def package_creation(
    project: "dl.Project",
    entry_point_path: str = manifest.ENTRY_POINT,
    models: Iterable[str] | None = None,
    server: str | None = None,
) -> "dl.Dpk":
    """Publish the app's next version and install it in the project, or update it where it is installed.

    Args:
        project: where to.
        entry_point_path: the file with the class `ModelAdapter`, relative to the repository.
        models: the model files to register; all of them by default.
        server: the model file that a service of the app serves over HTTP.

    Returns:
        The published package.

    Raises:
        ConfigurationError: no such model or entry point; nothing was sent.
        CreationError: the platform refused; the message says what exists there now.
    """
    import dtlpy as dl

    app = manifest.build(models, entry_point_path, server=server)
    with _refusals("the versions already published could not be read, and nothing was sent"):
        app["version"] = _next_version()
    title = f"{app['name']} {app['version']}"
    with (
        _uploaded(project, app, "dpk") as codebase,
        _refusals(f"{title} was refused, and nothing was published"),
    ):
        app["codebase"] = codebase.to_json()
        dpk = project.dpks.publish(dl.entities.Dpk.from_json(app, project=project))
    with _refusals(
        f"{title} is published but not installed: run this again, it publishes and installs the next"
    ):
        _install(project, dpk)
    return dpk


def push_package(
    project: "dl.Project",
    entry_point_path: str = manifest.ENTRY_POINT,
    models: Iterable[str] | None = None,
) -> "dl.Package":
    """Push the code as a package of the old kind. It has no models: today they come from apps.

    Arguments and errors are those of `package_creation`; the first model is the package's default.
    """
    import dtlpy as dl

    app = manifest.build(models, entry_point_path)
    push = _legacy_push(app)
    push["modules"] = [dl.PackageModule.from_json(module) for module in push["modules"]]
    requirements = project.packages.build_requirements(str(manifest.ROOT / "requirements.txt"))
    with (
        _uploaded(project, app, "zip") as codebase,
        _refusals("the package was refused, and nothing was pushed"),
    ):
        return project.packages.push(
            codebase=codebase, requirements=requirements, revision_increment="patch", **push
        )


def main(arguments: Sequence[str] | None = None, prog: str = "creation.py") -> int:
    """Run the command line; returns the exit code: 0, or 2 with a sentence on standard error.

    Args:
        prog: what the user has called it by.
    """
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    others = (options.manifest, options.models, options.server, options.dry_run, options.legacy_package)
    if options.add and any(others):
        parser.error("--add adds a model and sends nothing: leave the other options out")
    if options.manifest and options.models:
        parser.error("--manifest is for all models: leave --models out")
    try:
        _run(options)
    except AdapterError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.manifest:
        (manifest.ROOT / "dataloop.json").write_text(manifest.dumps(manifest.build()), encoding="utf-8")
        print("dataloop.json is written")
        return
    if options.add:
        _add(options.add)
        return
    if options.dry_run:
        print(manifest.dumps(_what_would_be_sent(options)), end="")
        return
    manifest.build(options.models, server=options.server)  # What is wrong here needs no platform to be found.
    project = _project(options)
    if options.legacy_package:
        package = push_package(project, models=options.models)
        print(f"package {package.name} {package.version} is pushed to {project.name}")
    else:
        dpk = package_creation(project, models=options.models, server=options.server)
        print(
            f"{dpk.display_name} {dpk.version} is published and installed in {project.name}, with the models:"
        )
        for model in dpk.components.models:
            print(f"  {model['name']}")


def _add(hub_id: str) -> None:
    """Adds a model, after its configuration was read from the hub (or from the cache, if offline).

    Raises:
        LoadError: there is no such model, it is gated, or the hub cannot be reached.
        ConfigurationError: a model that cannot run here. Nothing was written.
    """
    new_model.check_names(name := new_model.name_of(hub_id), hub_id)
    from engine.loading.diagnosis import explain_load_errors
    from engine.loading.files import read_json
    from engine.options import LoadOptions

    options = LoadOptions(model_name=hub_id)
    with explain_load_errors(options):
        config = read_json(options, "config.json")
    if not isinstance(config, dict):
        raise CreationError(
            f"{hub_id} has no config.json that could be read: check the name, and the connection to the hub"
        )
    new_model.add(name, hub_id, config, lambda text: print(text, end=""))


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Publish this app to a Dataloop project and install it there."
    )
    project = parser.add_mutually_exclusive_group(required=False)
    project.add_argument("--project-id", help="the project to publish to, by id")
    project.add_argument("--project-name", help="the project to publish to, by name")
    parser.add_argument("--env", help="the platform's environment, such as prod; the SDK keeps to it")
    parser.add_argument(
        "--models", type=lambda text: text.split(","), help="a,b: only these models; default: all"
    )
    parser.add_argument(
        "--server", metavar="MODEL", help="also serve this model by OpenAI's routes, on a pod"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be sent, as JSON, and send nothing"
    )
    parser.add_argument(
        "--legacy-package", action="store_true", help="push a package of the old kind, without models"
    )
    parser.add_argument(
        "--add", metavar="OWNER/NAME", help="add a model of the hub: write its file, and send nothing"
    )
    parser.add_argument(
        "--manifest", action="store_true", help="write dataloop.json from models/, and send nothing"
    )
    return parser


def _project(options: argparse.Namespace) -> "dl.Project":
    """The project that the options name, with someone logged in who may see it."""
    wanted = options.project_id or options.project_name
    if not wanted:
        raise CreationError("no project is named: add --project-id or --project-name")
    import dtlpy as dl

    # The SDK logs each refusal at length; the sentence says it already.
    logging.getLogger("dtlpy").setLevel(logging.CRITICAL)
    if options.env:
        with _refusals(f"environment {options.env!r} cannot be used"):
            dl.setenv(options.env)
    if dl.token_expired():
        raise CreationError("not logged in: run `dlp login` (or `dlp login-m2m`), then this again")
    with _refusals(f"project {wanted!r} cannot be read"):
        try:
            return dl.projects.get(project_id=options.project_id, project_name=options.project_name)
        except (dl.exceptions.NotFound, IndexError):  # The SDK's word for no project and for several.
            raise CreationError(
                f"{dl.environment()} gave no project {wanted!r}: check its name (several of one name need "
                "--project-id), the environment, and that this login may see it"
            ) from None


def _next_version() -> str:
    """The manifest's version, or the one after the newest published where that is higher.

    An app's name is one for all projects, and so are its versions.
    """
    import dtlpy as dl

    published = dl.Filters(
        field="name", values=manifest.NAME, resource=dl.FiltersResource.DPK, use_defaults=False
    )
    versions = [_numbers(manifest.VERSION)]
    for dpk in dl.dpks.list(published).all():
        *release, patch = _numbers(dpk.version)
        versions.append([*release, patch + 1])
    return ".".join(map(str, max(versions)))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _install(project: "dl.Project", dpk: "dl.Dpk") -> None:
    import dtlpy as dl

    installed = dl.Filters(
        field="dpkName", values=dpk.name, resource=dl.FiltersResource.APP, use_defaults=False
    )
    apps = list(project.apps.list(installed).all())
    for app in apps:
        app.dpk_version = dpk.version
        app.update()
    if not apps:
        project.apps.install(dpk)


def _legacy_push(app: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `packages.push` as JSON."""
    default = app["components"]["models"][0]
    compute = app["components"]["computeConfigs"][0]
    methods = {"load": True, "save": True, "predict": True, "train": False}
    ml = {
        "defaultConfiguration": default["configuration"],
        "inputType": default["inputType"],
        "outputType": default["outputType"],
        "supportedMethods": [{name: there} for name, there in methods.items()],
    }
    return {
        "package_name": app["name"],
        "package_type": "ml",
        "modules": app["components"]["modules"][:1],
        "metadata": {"system": {"ml": ml}},
        "service_config": {key: compute[key] for key in ("runtime", "executionTimeout")},
    }


def _what_would_be_sent(options: argparse.Namespace) -> dict[str, Any]:
    app = manifest.build(options.models, server=options.server)
    with _staged(app) as code:
        files = sorted(path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file())
    sent = {"package": _legacy_push(app)} if options.legacy_package else {"dpk": app}
    return sent | {"code": files}


@contextlib.contextmanager
def _uploaded(project: "dl.Project", app: dict[str, Any], extension: str) -> Iterator["dl.Codebase"]:
    """The code on the platform; taken away again where what it is for is refused."""
    with _refusals("the code could not be uploaded, and nothing was published"), _staged(app) as code:
        # The archive may be there already, in use by an earlier version.
        earlier = {item.id for item in project.codebases.list_versions(app["name"]).all()}
        codebase = project.codebases.pack(str(code), app["name"], extension)
    try:
        yield codebase
    except CreationError:
        if codebase.item_id not in earlier:
            with contextlib.suppress(Exception):
                project.items.delete(item_id=codebase.item_id)
        raise


@contextlib.contextmanager
def _staged(app: dict[str, Any]) -> Iterator[Path]:
    """The code to send, in a temporary folder; its parent is the working directory meanwhile.

    The SDK packs whole folders, and leaves files in the working directory.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        code = Path(folder) / "code"
        for name in (*SHIPPED, app["components"]["modules"][0]["entryPoint"]):
            source, target = manifest.ROOT / name, code / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        if "services" in app["components"]:
            with (code / "requirements.txt").open("a", encoding="utf-8") as requirements:
                requirements.write("\n".join(["", *manifest.SERVER_REQUIREMENTS, ""]))
        (code / "dataloop.json").write_text(manifest.dumps(app), encoding="utf-8")
        # With the same times the same code is the same archive, and the SDK sends it once.
        shutil.copystat(manifest.ROOT / "dataloop.json", code / "dataloop.json")
        yield code


@contextlib.contextmanager
def _refusals(sentence: str) -> Iterator[None]:
    """Turn whatever the SDK raises into one sentence: what was not done, and why."""
    try:
        yield
    except CreationError:
        raise
    except Exception as error:
        # Nothing of anybody's was sent but the code and the token: the platform's words are the reason.
        import dtlpy as dl

        said = redaction.redacted(str(getattr(error, "message", error)), [dl.client_api.token])
        raise CreationError(f"{sentence}: {' '.join(said.split())}") from error


if __name__ == "__main__":
    sys.exit(main())
