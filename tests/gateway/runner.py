"""Runs inside the process of a service: unpacks the published code, builds its class, calls its functions.

Started as a script in the folder that the code is to be unpacked into, logged in by its environment. It reads
the ids of executions from standard input and leaves when that closes. It imports nothing of the gateway.
"""

import importlib.util
import inspect
import os
import queue
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import dtlpy as dl


def read_ids(ids):
    """Queue the execution ids that arrive; end the process, whatever it does, when there can be no more."""
    for line in sys.stdin:
        ids.put(line.strip())
    os._exit(0)


def unpack(dpk, root):
    """Bring the published code to the folder `root`."""
    codebases, codebase = dpk.project.codebases, dpk.codebase
    if codebase.type == "item":
        # By its id: handed the codebase itself, the SDK asks it for a dataset that it has not got.
        codebases.unpack(codebase_id=codebase.item_id, local_path=root)
    else:
        codebases.unpack(codebase=codebase, local_path=root)


def build(service, module, root):
    """Import the entry point as the SDK does (by path, the root on the path) and make its class."""
    sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location(module.class_name, os.path.join(root, module.entry_point))
    entry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(entry)
    types = {i.name: i.type for i in module.init_inputs}
    inputs = {name: fetch(types.get(name), value) for name, value in (service.init_input or {}).items()}
    instance = getattr(entry, module.class_name)(**inputs)
    if isinstance(instance, dl.BaseServiceRunner):
        instance.service_entity = service
    return instance


def fetch(kind, value):
    """The value as the declared input type wants it: an entity, a list of entities or the plain value."""
    kind = str(kind)
    if kind.endswith("[]"):
        return [fetch(kind[:-2], one) for one in value]
    repository = getattr(dl, f"{kind.lower()}s", None)
    if repository is None:  # Json, String, Integer, ...
        return value
    key = f"{kind.lower()}_id"
    return repository.get(**{key: value[key] if isinstance(value, dict) else value})


def plain(value):
    """The output as JSON: entities by their id."""
    if isinstance(value, list | tuple | dl.AnnotationCollection):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return getattr(value, "id", None) or str(value)


def named(function, result):
    """The output by the names that the manifest declares, when it declares as many as there are."""
    names = [output.name for output in function.outputs]
    values = result if len(names) > 1 and isinstance(result, tuple) else [result]
    return dict(zip(names, map(plain, values), strict=True)) if len(names) == len(values) else plain(result)


def run(service, project, function, instance, execution):
    """Call one function and report how it went."""

    class Progress(dl.Progress):
        def update(self, status=None, progress=0, message=None, output=None, duration=None, action=None):
            execution.progress_update(status or "inProgress", progress, message, output)

    try:
        execution.progress_update(status="inProgress", percent_complete=0)
        call = getattr(instance, function.name)
        wanted = inspect.signature(call).parameters
        types = {i.name: i.type for i in function.inputs}
        inputs = {name: fetch(types.get(name), value) for name, value in execution.input.items()}
        if "progress" in wanted:
            inputs["progress"] = Progress()
        if "context" in wanted:
            inputs["context"] = dl.Context(
                service, project=project, execution_dict=execution.to_json(), progress=Progress()
            )
        output = named(function, call(**inputs))
    except BaseException:
        traceback.print_exc()
        execution.progress_update(status="failed", message=traceback.format_exc())
    else:
        execution.progress_update(status="completed", percent_complete=100, output=output)


def main(service_id):
    """Serve the executions of one service until standard input closes."""
    ids = queue.Queue()
    threading.Thread(target=read_ids, args=[ids], daemon=True).start()
    service = dl.services.get(service_id=service_id)
    dpk = dl.dpks.get(dpk_id=service.package_id)
    (module,) = [module for module in dpk.components.modules if module.name == service.module_name]
    functions = {function.name: function for function in module.functions}
    instance, failure = None, ""
    try:
        unpack(dpk, os.getcwd())
        instance = build(service, module, os.getcwd())
    except BaseException:
        traceback.print_exc()
        failure = traceback.format_exc()
    with ThreadPoolExecutor(service.runtime.concurrency if service.runtime else 1) as pool:
        while True:
            execution = dl.executions.get(execution_id=ids.get())
            if instance is None:
                execution.progress_update(status="failed", message=failure)
            else:
                function = functions[execution.function_name]
                pool.submit(run, service, dpk.project, function, instance, execution)


if __name__ == "__main__":
    main(sys.argv[1])
