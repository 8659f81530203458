"""`python -m apl` is the command line."""

from apl.cli import main

main()
