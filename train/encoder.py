"""`python -m train.encoder`, from a clone: the same as the installed command `covjax train encoder`."""

import sys

from covjax.training.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], command="python -m train.encoder"))
