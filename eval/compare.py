"""`python -m eval.compare`, from a clone: the same as the installed command `covjax compare`."""

from covjax.comparison.command import main

if __name__ == "__main__":
    main(command="python -m eval.compare")
