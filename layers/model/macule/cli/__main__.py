"""`python -m macule.cli`: the `macule` command."""

import sys

from macule.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
