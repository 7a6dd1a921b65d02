"""`python -m eval.sources NAME`, from a clone: writes one real data set, or `all`, as standard tables."""

from covjax.sources.__main__ import main

if __name__ == "__main__":
    main()
