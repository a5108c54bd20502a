"""Let commands meet faults at random moments, and print how they ended: a developer's tool, for Linux.

    python tests/campaign.py --seed 1 --number 60
    python tests/campaign.py convert bundle --faults kill signal --number 60

Each fault of faults.py hits each command so many times. A run is done, or refused with a sentence, or ended by the
signal. What is none of these is broken: it is printed, and the exit status is then 1. The same seed chooses the same
faults, but not the same moments, which are parts of a second. Full disks need root.
"""

import argparse
import pathlib
import random
import sys
import tempfile
from collections import Counter

import pytest
from faults import COMMANDS, READING, WRITING, faults_of, lab_of

FAULTS = (*WRITING, *READING)
BROKEN = "broken"


def meet(lab, fault, number, report=print):
    """Let a command meet a fault so many times; return a Counter of how the runs ended.

    Args:
        report: called with what was broken, and why there are no runs.
    """
    ends = Counter()
    for _ in range(number):
        try:
            ends[getattr(lab, fault)()] += 1
        except AssertionError as error:
            ends[BROKEN] += 1
            report(f"{lab.command.name}, {fault}: {error!s:.3000}")
        except pytest.skip.Exception as skipped:
            report(f"{lab.command.name}, {fault}: {skipped}")
            break
    return ends


def table(counts):
    """Return a Markdown table of {(command, fault): Counter}: the runs, and how many of them were done."""
    names, faults = (list(dict.fromkeys(column)) for column in zip(*counts, strict=True))
    rows = [["command", *(fault.replace("_", " ") for fault in faults)], ["---"] * (len(faults) + 1)]
    rows += [[f"`{name}`", *(cell(counts.get((name, fault))) for fault in faults)] for name in names]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cell(ends):
    if not ends:
        return ""
    broken = f", {ends[BROKEN]} broken" if ends[BROKEN] else ""
    return f"{ends.total()} ({ends['done']} done{broken})"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=[], help=f"of {', '.join(COMMANDS)}; all by default")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS, metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=60, help="of runs of each command with each fault")
    options = parser.parse_args(arguments)
    if unknown := set(options.commands) - set(COMMANDS):
        parser.error(f"no such command: {', '.join(sorted(unknown))}")
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.commands or COMMANDS:
            lab = lab_of(pathlib.Path(folder), name, random.Random(f"{options.seed} {name}"))
            for fault in faults_of(name):
                if fault in options.faults:
                    counts[name, fault] = meet(lab, fault, options.number, lambda text: print(text, file=sys.stderr))
    print(table(counts), end="")
    return any(ends[BROKEN] for ends in counts.values())


if __name__ == "__main__":
    sys.exit(main())
