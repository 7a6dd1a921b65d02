"""`python -m train.extract`, from a clone: the same as the installed command `covjax extract`."""

import sys

from covjax.extraction.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], command="python -m train.extract"))
