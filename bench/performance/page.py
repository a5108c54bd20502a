"""The tables of docs/performance.md, made from the results, and its plots; the text around them is written by hand."""

import re
import statistics

import plot
from peers import DEPTH, PROMPT


def write(found, path):
    """Put tables between their markers, `<!-- table: NAME -->` and `<!-- end -->`; draw the plots beside the page."""
    text = path.read_text(encoding="utf-8")
    tables = {"targets": targets, "peers": peers, "parts": parts, "growth": growth, "sizes": sizes}
    for name, table in tables.items():
        block = "\n".join(f"| {' | '.join(row)} |" for row in with_rule(table(found)))
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        text, n = re.subn(
            pattern, lambda match, block=block: f"{match[1]}\n{block}\n\n{match[2]}", text, flags=re.DOTALL
        )
        if n != 1:
            raise ValueError(f"{path}: {n} places for the table {name!r}, expected one")
    machine = found["peers"]["machine"]
    versions = dict.fromkeys(contender["version"] for contender in found["peers"]["contenders"])
    line = f"{machine['cpu']}, {machine['cpus']} cores; medians of {found['peers']['rounds']} rounds"
    line += f"; {', '.join(versions)}"
    text = re.sub(r"(<!-- machine -->).*?(<!-- end -->)", lambda match: f"{match[1]}{line}{match[2]}", text)
    path.write_text(text, encoding="utf-8")
    plot.draw_page(path)


def with_rule(rows):
    head, *rest = rows
    return [head, ("---",) * len(head), *rest]


def label(contender):
    """Return the name of a row."""
    name = f"{contender['runtime']} {contender['kind']}"
    return f"{name}, {contender['isa']}" if contender["isa"] else name


def chosen(found, runtime, kind, threads=None, isa=None):
    """Return the medians of a contender, with its size and, for gpt2rt, how close decoding is to the memory limit."""
    threads = threads or found["peers"]["threads"]
    for contender in found["peers"]["contenders"]:
        if (contender["runtime"], contender["kind"], contender["threads"], contender["isa"]) == (
            runtime,
            kind,
            threads,
            isa,
        ):
            found = contender["medians"] | {"size": contender["size"]}
            values = contender["values"]
            if "memory_limit" in values:  # what memory allows varies from round to round, as others use it, too
                pairs = zip(values["decode"], values["memory_limit"], strict=True)
                found["of_limit"] = statistics.median(decode / limit for decode, limit in pairs)
            return found
    return None


def peers(found):
    rows = [
        (
            "",
            "threads",
            "decode",
            f"decode at {DEPTH}",
            f"prompt of {PROMPT}",
            "first token, ms",
            "memory, MB",
            "model, MB",
            "logits off",
        )
    ]
    for contender in found["peers"]["contenders"]:
        m = contender["medians"]
        rows.append(
            (
                label(contender),
                str(contender["threads"]),
                *(f"{m[what]:,.0f}" if what in m else "" for what in ("decode", "deep", "prompt")),
                f"{1e3 * m['start']:,.0f}",
                f"{m['memory'] / 1e6:,.0f}",
                f"{contender['size'] / 1e6:,.0f}",
                f"{m['off']:.1%}" if "off" in m else "",
            )
        )
    return rows


def ratio(found, ours, peer, what):
    """Return the median over the rounds of our figure divided by the peer's; None if the peer is missing."""
    values = []
    for runtime, kind in (ours, peer):
        for contender in found["peers"]["contenders"]:
            if (contender["runtime"], contender["kind"], contender["isa"]) == (runtime, kind, None):
                values.append(contender["values"][what])
                break
        else:
            return None
    return statistics.median(a / b for a, b in zip(*values, strict=True))


def shown(value):
    """Return a ratio as text."""
    return "not measured" if value is None else f"{value:.2f}"


def targets(found):
    """Return the rows of what we aim at, and what was measured."""
    int8, int4, f16, f32 = (("gpt2rt", kind) for kind in ("int8", "int4", "f16", "f32"))
    chat = ("gpt2rt-chat", "int8")
    q8, q4, ct2, openvino = ("llama.cpp", "Q8_0"), ("llama.cpp", "Q4_0"), ("ctranslate2", "int8"), ("openvino", "int8")
    mine, small = chosen(found, *int8), chosen(found, *int4)
    ours = found["ours"]
    deeper = 1 - mine["deep"] / mine["decode"]
    attention = ours["parts"]["512 at 0"]["attention"] / sum(ours["parts"]["512 at 0"].values())
    cold, made = ours["cold"], ours["convert"]

    def against(mine_, peer, what, aim):
        return (f"{WHAT[what]}, {mine_[1]} / {peer[0]} {peer[1]}", f">= {aim}", shown(ratio(found, mine_, peer, what)))

    def above(contender):
        one = chosen(found, *contender)
        if one is None:
            return shown(None)
        return f"{(one['memory'] - one['size'] - found['peers']['generated_kv_cache']) / 1e6:.0f} MB"

    batch = ours["batches"]
    asked = ours["threads"]
    right = max(speeds[0] for speeds in asked.values())
    rows = [
        ("what", "target", "measured"),
        against(int8, q8, "decode", 1.6),
        ("decode int8, of the memory limit", ">= 88%", f"{mine['of_limit']:.0%}"),
        against(int8, q8, "deep", 2.2),
        (f"decode int8 at {DEPTH}, slower than with an empty context", "<= 13%", f"{deeper:.0%}"),
        against(int8, q8, "prompt", 3.8),
        against(int8, ct2, "prompt", 2.4),
        against(int8, openvino, "prompt", 1.4),
        ("attention's share of a prompt of 512", "< 10%", f"{attention:.0%}"),
        ("first token, gpt2rt-chat int8 / llama.cpp Q8_0", "<= 0.25", shown(ratio(found, chat, q8, "start"))),
        ("first token, int8, started by Python", "<= 45 ms", f"{1e3 * mine['start']:.0f} ms"),
        against(int4, int8, "decode", 1.5),
        against(int4, q4, "decode", 2.2),
        against(int4, q4, "deep", 2.2),
        ("file size, int4 / int8", "<= 0.6", f"{small['size'] / mine['size']:.2f}"),
        against(f16, f32, "decode", 1.7),
        ("peak memory above file and cache, int8", "<= 40 MB", above(int8)),
        ("peak memory above file and cache, gpt2rt-chat int8", "<= 8 MB", above(chat)),
        ("convert 124M / cp and sha256sum", "<= 2", f"{made['convert'] / made['cp and sha256sum']:.2f}"),
        ("peak memory of convert", "<= 200 MB", f"{made['peak'] / 1e6:.0f} MB"),
        ("throughput of 16 sequences / of one", ">= 4", f"{batch['16'] / batch['1']:.1f}"),
        (
            "any requested number of threads, slower than the best",
            "<= 10%",
            f"{1 - min(speeds[0] for n, speeds in asked.items() if int(n) > 1) / right:.0%}",
        ),
        ("prompt lookup, plain text, with / without", ">= 0.97", f"{ours['lookup']['plain text, sampled']:.2f}"),
    ]
    if cold:
        rows.append(("cold file, first token / cat", "<= 1.3", f"{cold['generate'] / cold['cat']:.1f}"))
    rows += [
        (f"quota of {cpus} CPUs, default threads / one thread", ">= 0.9", f"{speeds[1] / speeds[0]:.2f}")
        for cpus, speeds in ours["quotas"].items()
    ]
    return rows


WHAT = {
    "decode": "decode",
    "deep": f"decode at {DEPTH}",
    "prompt": f"prompt of {PROMPT}",
}


def parts(found):
    passes = found["ours"]["parts"]
    rows = [("milliseconds", *next(iter(passes.values())), "sum")]
    for at, seconds in passes.items():
        n, depth = at.split(" at ")
        what = f"{n} token{'s' * (n != '1')} after {depth}"
        rows.append((what, *(f"{1e3 * value:.2f}" for value in seconds.values()), f"{1e3 * sum(seconds.values()):.2f}"))
    return rows


def growth(found):
    """Return the rows of what grows with context, threads and batch, and tokens/s."""
    ours = found["ours"]
    rows = [("what", "tokens/s"), *((f"decode at {depth}", f"{speed:.0f}") for depth, speed in ours["depths"].items())]
    for n, (decode, prompt) in ours["threads"].items():
        rows.append((f"{n} thread{'s' * (n != '1')} requested", f"{decode:.0f}; prompt of {PROMPT}: {prompt:,.0f}"))
    rows += [(f"batch of {n}", f"{speed:,.0f}") for n, speed in ours["batches"].items()]
    rows += [(f"prompt lookup, {text}", f"{by:.2f} x") for text, by in ours["lookup"].items()]
    for cpus, (one, default, eight) in ours["quotas"].items():
        rows.append((f"quota of {cpus} CPUs: 1 thread, default, 8 requested", f"{one:.0f}, {default:.0f}, {eight:.0f}"))
    rows += [(f"cold or warm: {what}", f"{1e3 * seconds:.0f} ms") for what, seconds in ours["cold"].items()]
    made = ours["convert"]
    rows += [
        (what if what.startswith("cp") else f"{what}, 124M", f"{made[what]:.2f} s") for what in made if what != "peak"
    ]
    return rows


def sizes(found):
    rows = [("int8", "file, MB", "decode", "of memory limit", f"prompt of {PROMPT}", "first token, ms", "memory, MB")]
    for size, m in found["ours"]["sizes"].items():
        rows.append(
            (
                size,
                f"{m['file'] / 1e6:,.0f}",
                f"{m['decode']:.1f}",
                f"{m['decode'] / m['memory_limit']:.0%}",
                f"{m['prompt']:,.0f}",
                f"{1e3 * m['start']:.0f}",
                f"{m['memory'] / 1e6:,.0f}",
            )
        )
    return rows
