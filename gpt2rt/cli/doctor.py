"""gpt2rt doctor: report what gpt2rt finds on this machine, and whether it computes correctly."""

from __future__ import annotations

import click

from gpt2rt.cli import EXIT_ERROR, complain
from gpt2rt.cli.terminal import print_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command("doctor", short_help="Report what this machine has, and whether it computes correctly.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, as_json: bool) -> None:
    """Report the processor, the instruction set and the number of threads, and check the arithmetic.

    The bundled model's logits for 300 fixed tokens have the same bits on every machine. Each instruction set that this
    processor supports computes them, and their SHA-256 is compared with the expected one. Include the output in bug
    reports.

    \b
    Examples:
      gpt2rt doctor
      GPT2RT_ISA=avx2 gpt2rt doctor --json
    """
    from gpt2rt.doctor import examine

    found = examine()
    wrong = [isa for isa, digest in found["digests"].items() if digest != found["golden"]]
    if as_json:
        print_json(found)
    else:
        rows = [
            ("versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())),
            ("executable", found["executable"]),
            ("system", found["system"]),
            ("processor", found["cpu"]),
            ("instruction set", isa_line(found)),
            ("threads", threads_line(found)),
            *((f"logits, {isa}", digest_line(digest, found["golden"])) for isa, digest in found["digests"].items()),
        ]
        if not found["digests"]:
            rows.append(("logits", "not computed: the package was built without the bundled model"))
        width = max(len(name) for name, _ in rows) + 2
        for name, value in rows:
            click.echo(f"{name:{width}}{value}")
    if found["isa"] is None:
        available = ", ".join(found["available_isas"])
        complain(f"GPT2RT_ISA: got {found['wanted_isa']!r}, expected one of {available} (or unset it)")
    if wrong:
        complain(
            f"{', '.join(wrong)}: the logits differ from the expected ones (install gpt2rt again, or report a bug)"
        )
    if wrong or found["isa"] is None:
        ctx.exit(EXIT_ERROR)


def isa_line(found: dict[str, Any]) -> str:
    """Return the instruction set and why it was chosen."""
    available = ", ".join(found["available_isas"])
    if found["isa"] is None:
        return f"none: GPT2RT_ISA is {found['wanted_isa']!r}, this processor supports {available}"
    why = "the best" if found["wanted_isa"] is None else "set by GPT2RT_ISA, one"
    return f"{found['isa']}, {why} of {available}"


def threads_line(found: dict[str, Any]) -> str:
    """Return the default number of threads and why it was chosen."""
    limits = ", ".join(f"{name} {limit:g}" for name, limit in found["thread_limits"].items())
    return f"{found['threads']}, the smallest of {limits}"


def digest_line(digest: str, golden: str) -> str:
    """Return the digest, and what was expected."""
    return f"{digest[:16]}, as expected" if digest == golden else f"{digest[:16]}, EXPECTED {golden[:16]}"
