"""`python -m cair_lightning` is `cair`; so is `fabric run` with this file."""

from cair_lightning.cli import main

if __name__ == "__main__":
    main()
