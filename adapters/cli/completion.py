"""`completion`: a shell command `adapters` that completes its commands, options and models."""

from __future__ import annotations

import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.output import printing

ROOT = Path(__file__).resolve().parents[2]
# By which the shell asks for completions, in typer's protocol.
VARIABLE = "_ADAPTERS_COMPLETE"

BASH = r"""adapters() { %(run)s "$@"; }
_adapters() {
    local IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(variable)s=complete_bash %(run)s))
}
complete -o default -F _adapters adapters
"""
ZSH = """adapters() { %(run)s "$@" }
_adapters() {
    eval $(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" %(variable)s=complete_zsh %(run)s)
}
compdef _adapters adapters
"""
FISH = """function adapters; %(run)s $argv; end
set -l ask "env %(variable)s=complete_fish _TYPER_COMPLETE_ARGS=(commandline -cp)"
complete -c adapters --no-files \\
    -a "($ask _TYPER_COMPLETE_FISH_ACTION=get-args %(run)s)" \\
    -n "$ask _TYPER_COMPLETE_FISH_ACTION=is-args %(run)s"
"""


class Shell(StrEnum):
    """A shell with completion."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="For which shell.")]) -> int:
    """Print a shell command with completion. Source it: source <(python -m adapters completion bash)."""
    run = f"env PYTHONPATH={shlex.quote(str(ROOT))} {shlex.quote(sys.executable)} -m adapters"
    template = {Shell.bash: BASH, Shell.zsh: ZSH, Shell.fish: FISH}[shell]
    with printing() as output:
        output.write(template % {"run": run, "variable": VARIABLE})
    return 0


def is_asked() -> bool:
    """Whether the shell asks for completions rather than for a command."""
    return VARIABLE in os.environ


def answer(app: typer.Typer) -> int:
    """Prints the completions; the command line so far is in the environment.

    Args:
        app: made with `add_completion`, which teaches typer the shells.
    """
    try:
        app(args=[], prog_name="adapters", complete_var=VARIABLE)
    except SystemExit as end:
        return int(end.code or 0)
    return 0
