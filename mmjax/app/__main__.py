"""`python -m mmjax.app`: see `mmjax.app.command`."""

import sys

from mmjax.app.command import main

if __name__ == "__main__":
    sys.exit(main())
