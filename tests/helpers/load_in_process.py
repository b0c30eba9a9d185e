"""Loads models in a separate process, since HF_ENDPOINT is read at import: `python -m` this module.

Reads cases from standard input as JSON, by name {"options": {…}, "environment": {…}}, and prints the outcome
of each: {"model": its class, …} or {"error": its class, "text": …}, with everything that was logged.
"""

import io
import json
import logging
import os
import sys

from engine.environment import TOKEN_VARIABLES
from engine.loading import load
from engine.options import LoadOptions


def outcome(options: dict, save: str | None) -> dict:
    try:
        loaded = load(LoadOptions(**options))
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error)}
    if save:
        loaded.model.save_pretrained(save)
        loaded.tokenizer.save_pretrained(save)
    return {
        "model": type(loaded.model).__name__,
        "tokenizer": type(loaded.tokenizer).__name__,
        "context_length": loaded.context_length,
        "written": repr((loaded, vars(loaded.tokenizer), loaded.model.config)),
    }


def main() -> None:
    log = io.StringIO()
    logging.basicConfig(level=logging.NOTSET, stream=log)
    outcomes = {}
    for name, case in json.load(sys.stdin).items():
        for variable in TOKEN_VARIABLES:
            os.environ.pop(variable, None)
        os.environ.update(case.get("environment", {}))
        log.truncate(log.seek(0))
        outcomes[name] = outcome(case["options"], case.get("save")) | {"log": log.getvalue()}
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
