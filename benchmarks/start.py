"""How long it takes until `apl` answers, and with how much memory, beside Python and torch alone.

    python benchmarks/start.py [--rounds 7]

Every command is a fresh process.  The commands take turns in every round, so that what else the
machine does hits all of them; each figure is the median over the rounds, after one that is not
counted.  The memory is the peak of resident pages.  Prints a Markdown table.  Linux and macOS.
"""

# Only what is small is imported: the peak of a child is never seen below that of its parent.
import argparse
import os
import sys
import time

APL = os.path.join(os.path.dirname(sys.executable), "apl")
COMPLETION = {
    "_APL_COMPLETE": "complete_bash",
    "COMP_WORDS": "apl train --loss n",
    "COMP_CWORD": "3",
}

COMMANDS: dict[str, tuple[list[str], dict[str, str], int]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], {}, 0),
    "import torch": ([sys.executable, "-c", "import torch"], {}, 0),
    "from apl import make_loss": ([sys.executable, "-c", "from apl import make_loss"], {}, 0),
    "apl --help": ([APL, "--help"], {}, 0),
    "apl train --help": ([APL, "train", "--help"], {}, 0),
    "apl train --loss n<TAB>": ([APL], COMPLETION, 0),
    "apl losses": ([APL, "losses"], {}, 0),
    "apl datasets": ([APL, "datasets"], {}, 0),
    "apl train --loss nope": ([APL, "train", "--loss", "nope"], {}, 2),
}
"""What is typed: the command, what its environment holds besides, and its exit code."""

PYTHON, TORCH = "python -c pass", "import torch"


def measure(command: list[str], environment: dict[str, str], code: int) -> tuple[float, float]:
    """Seconds and peak megabytes of one process, whose output is dropped."""
    quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    began = time.perf_counter()
    process = os.posix_spawn(command[0], command, {**os.environ, **environment}, file_actions=quiet)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - began
    ended = os.waitstatus_to_exitcode(status)
    if ended != code:
        sys.exit(f"{' '.join(command)}: exit code {ended}, expected {code}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return seconds, usage.ru_maxrss * unit / 1e6


def median(values: list[float]) -> float:
    """The middle one, or the mean of the middle two."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    megabytes: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, command in COMMANDS.items():
            took, peak = measure(*command)
            if turn:  # the first one reads the files from the disk
                seconds[name].append(took)
                megabytes[name].append(peak)
    print(f"| | s | MB | s, over `{PYTHON}` | s, over `{TORCH}` | MB, over `{TORCH}` |")
    print("| --- |" + " --- |" * 5)
    python, torch = median(seconds[PYTHON]), median(seconds[TORCH])
    for name in COMMANDS:
        took, peak = median(seconds[name]), median(megabytes[name])
        ratios = (took / python, took / torch, peak / median(megabytes[TORCH]))
        cells = [f"{took:.3f}", f"{peak:.0f}", *(f"{ratio:.2f}" for ratio in ratios)]
        print(f"| `{name}` | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
