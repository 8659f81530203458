"""`python -m apl` is the command line."""

from apl.cli.app import main

main()
