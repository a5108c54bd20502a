"""gpt2rt doctor: what it finds on this machine, and whether it computes what it should."""

from __future__ import annotations

import click

from gpt2rt.cli import EXIT_ERROR, complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command("doctor", short_help="Tell what this machine is, and whether it computes right.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, /, as_json: bool) -> None:
    """Tell processor, instruction set and threads, and why they were chosen, and check the arithmetic.

    The bundled model's logits for 300 fixed tokens have the same bits on every machine: each instruction set that can
    run here computes them, and their SHA-256 is compared with the expected one. Put the output into bug reports.

    \b
    Examples:
      gpt2rt doctor
      GPT2RT_ISA=avx2 gpt2rt doctor --json
    """
    from gpt2rt.doctor import examine

    found = examine()
    wrong = [isa for isa, digest in found["digests"].items() if digest != found["golden"]]
    if as_json:
        import json

        click.echo(json.dumps(found, ensure_ascii=False, indent=1))
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
            rows.append(("logits", "not computed, the package was built without its model"))
        width = max(len(name) for name, _ in rows) + 2
        for name, value in rows:
            click.echo(f"{name:{width}}{value}")
    if found["isa"] is None:
        complain(
            f"GPT2RT_ISA is {found['wanted_isa']!r}, expected one of {', '.join(found['available_isas'])} (or unset it)"
        )
    if wrong:
        complain(
            f"{', '.join(wrong)}: other logits than expected (a bug, or damaged files: install again, or report it)"
        )
    if wrong or found["isa"] is None:
        ctx.exit(EXIT_ERROR)


def isa_line(found: dict[str, Any]) -> str:
    """The instruction set and why."""
    available = ", ".join(found["available_isas"])
    if found["isa"] is None:
        return f"none: GPT2RT_ISA is {found['wanted_isa']!r}, this machine can run {available}"
    why = "the best" if found["wanted_isa"] is None else "as GPT2RT_ISA says; one"
    return f"{found['isa']}, {why} of {available}"


def threads_line(found: dict[str, Any]) -> str:
    """The default number of threads and why."""
    limits = ", ".join(f"{name} {limit:g}" for name, limit in found["thread_limits"].items())
    return f"{found['threads']}, the least of: {limits}"


def digest_line(digest: str, golden: str) -> str:
    """The digest, and what it should be."""
    return f"{digest[:16]}, as expected" if digest == golden else f"{digest[:16]}, EXPECTED {golden[:16]}"
