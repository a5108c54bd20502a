"""Draw the losses of WORK/curve.csv, for light and dark pages: python train/plot.py WORK docs/demo-model.svg

The files are named for the page: demo-model-light.svg and demo-model-dark.svg.
"""

import argparse
import csv
import pathlib

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

COLORS = {  # text, lines between stages, training text, held-out dialogues
    "light": ("#1f2328", "#d1d9e0", "#b35900", "#0b6bcb"),
    "dark": ("#e6edf3", "#3d444d", "#ffa657", "#58a6ff"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("picture", type=pathlib.Path)
    options = parser.parse_args()
    with open(options.work / "curve.csv", newline="") as file:
        rows = [(stage, int(step), float(loss), float(held)) for stage, step, _, loss, held in csv.reader(file)]
    for scheme, colors in COLORS.items():
        plot(rows, colors, options.picture.with_name(f"{options.picture.stem}-{scheme}.svg"))


def plot(rows, colors, path):
    """Plot (stage, step, training loss, held-out loss) over the steps."""
    ink, faint, training, held_out = colors
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "gpt2rt",  # the same picture from the same numbers
            "svg.fonttype": "none",  # text stays text
            "font.family": ["DejaVu Sans", "sans-serif"],
            "font.size": 12,  # 9 pt where a phone's column shows the plot at 75%
            **dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"], ink),
        }
    )
    figure, axes = pyplot.subplots(figsize=(5, 3.6), layout="constrained")
    steps = [step for _, step, _, _ in rows]
    axes.plot(steps, [loss for *_, loss, _ in rows], color=training, label="training text")
    axes.plot(steps, [held for *_, held in rows], color=held_out, label="held-out dialogues")
    stages = [stage for stage, *_ in rows]
    for stage in dict.fromkeys(stages):
        begin = [0, *steps][stages.index(stage)]  # the last measurement of the stage before it
        axes.axvline(begin, color=faint, zorder=0)
        axes.annotate(
            stage, (begin, 1), (5, -5), xycoords=("data", "axes fraction"), textcoords="offset points", va="top"
        )
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.12)  # room for the stages' names
    axes.set_title("Loss, nats/token (lower is better)", loc="left", fontsize="medium", pad=12)
    axes.set(xlabel="steps")
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, metadata={"Date": None}, transparent=True)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
