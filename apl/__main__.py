"""`python -m apl` is the command line."""

from cli import main

main()
