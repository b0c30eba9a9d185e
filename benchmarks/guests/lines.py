"""What the programs of this folder share, which import nothing else of it: JSON lines in, JSON lines out."""

import json
import os
import sys
from collections.abc import Callable

Conversations = list[list[tuple[list[int], int]]]


def serve(
    load: Callable[[dict], float], answer: Callable[[Conversations], list], reset: Callable[[], None]
) -> None:
    """Loads a model by the settings of the command line, then does what each line of standard input asks.

    Args:
        load: takes the settings, and returns the seconds that it took.
        answer: conversations of questions (token ids) and lengths → the token ids of each answer.
        reset: empties the cache.
    """
    # Standard output is for the answers alone: whatever else is printed goes to standard error.
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)

        def say(what: dict) -> None:
            output.write(json.dumps(what) + "\n")
            output.flush()

        say({"load_seconds": load(json.loads(sys.argv[1]))})
        for line in sys.stdin:
            asked = json.loads(line)
            if "conversations" in asked:
                say({"answers": answer(asked["conversations"])})
            else:
                reset()
                say({})
