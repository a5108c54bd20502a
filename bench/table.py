"""Markdown tables of benchmarks."""


def markdown(row):
    return f"| {' | '.join(row)} |"
