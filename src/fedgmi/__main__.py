"""`python -m fedgmi` is the command `fedgmi`."""

from __future__ import annotations

import sys

from fedgmi.cli import main

if __name__ == "__main__":
    main(sys.argv[1:])
