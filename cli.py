"""The front door of a checkout installed with `pip install -e .`: `python cli.py train`."""

from apl.cli import main

if __name__ == "__main__":
    main()
