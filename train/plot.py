"""Draws the losses of WORK/curve.csv: python train/plot.py WORK docs/demo-model.svg"""

import argparse
import csv
import pathlib

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("picture", type=pathlib.Path)
    options = parser.parse_args()
    with open(options.work / "curve.csv", newline="") as file:
        rows = [(stage, int(step), float(loss), float(held)) for stage, step, _, loss, held in csv.reader(file)]
    matplotlib.rcParams["svg.hashsalt"] = "gpt2rt"  # the same picture from the same numbers
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    steps = [step for _, step, _, _ in rows]
    axes.plot(steps, [loss for *_, loss, _ in rows], label="training text")
    axes.plot(steps, [held for *_, held in rows], label="held-out dialogues")
    stages = [stage for stage, *_ in rows]
    for stage in dict.fromkeys(stages):
        begin = [0, *steps][stages.index(stage)]  # after the last measurement of the stage before it
        axes.axvline(begin, color="lightgray", zorder=0)
        axes.text(begin, axes.get_ylim()[1], f" {stage}", va="top")
    axes.set(xlabel="steps", ylabel="loss, nats a token")
    axes.legend()
    figure.savefig(options.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
