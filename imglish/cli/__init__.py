"""The command line: one verb per task, every one of them `imglish VERB --help`.

Results go to standard output, progress and warnings to standard error. Exit status: 0 done, 1 failed, 2 wrong
usage, 75 preempted and saved. Rooms are imported inside the verbs, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys

# Importing a module adds its verbs to the command, in this order.
from imglish.cli import auditing, building, corpora, deciding, demo, training  # noqa: F401
from imglish.cli.options import app
from imglish.errors import ImglishError


def main() -> None:
    """Run the command line; errors of ours become one line on standard error and an exit status."""
    # Read when torch is loaded. libgomp's threads spin without end while they wait, which makes training 3 to 8 times
    # slower as soon as another process wants a core; never spinning makes a step 1.5 times slower on a quiet machine
    # (0.30 s against 0.20 s). A short spin costs neither.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        app()
    except ImglishError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; finished units are kept, run the same command again to go on\n")
        sys.exit(130)
