"""`python -m covjax`: the same as the installed command `covjax`."""

import sys

from covjax.command import main

if __name__ == "__main__":
    sys.exit(main())
