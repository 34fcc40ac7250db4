"""`python -m mmjax.bench`: the benchmarks of a checkout, which no installed package has."""

import importlib.util
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[2]))
    if importlib.util.find_spec("benchmarks.command") is None:
        sys.exit(
            "error: the benchmarks come with mmjax's source, not with the installed package; run "
            "this in a checkout"
        )
    from benchmarks.command import main

    main()
