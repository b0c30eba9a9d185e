"""`python -m adapters`."""

import os
import signal
import sys

from adapters.cli import main

if sys.stderr is None or not sys.stderr.isatty():  # The libraries' progress bars, too, are for a terminal.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
code = main()
# Ctrl-C pressed once more, while Python ends, is no traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.exit(code)
