"""`python -m train.autoencoder`, from a clone: the same as the installed command `covjax train`."""

import sys

from covjax.autoencoder_command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], command="python -m train.autoencoder"))
