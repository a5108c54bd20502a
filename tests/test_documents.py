"""Documents: the command lines in README.md, CONTRIBUTING.md and docs/ work and print what is shown; so does cli.md.

The command lines are those in blocks marked `sh` and in the examples of the help texts. They run in a folder of
substitutes: a tiny model under the name of each model, its checkpoint under the name of each checkpoint, short texts.
"""

import gzip
import importlib.util
import json
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from checkpoints import SMALL, write_checkpoint
from clients import offline
from trainer_files import model_bytes, simple_tokens, tokenizer_bytes, write_nanogpt

from gpt2rt._kernels import available_isas
from gpt2rt.converter import convert

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# Commands that are not run here, by their beginning, and why.
ELSEWHERE = {
    **dict.fromkeys(["pip install", "python3 -m venv"], "an environment is made and installed into by .ci/run"),
    **dict.fromkeys(["ruff", "mypy", "lint-imports", "mkdocs"], ".ci/run does"),
    "python tests/sanitize.py": "a build with sanitizers takes minutes; .ci/run has one",
    **dict.fromkeys(
        [f"python train/{name}.py" for name in ("score", "prepare", "train", "export", "plot", "lstm")],
        "an hour; tests/test_train.py",
    ),
    "cp WORK": "part of training",
    "pytest": "that is this run",
    **dict.fromkeys(["python fuzz/run.py", "python fuzz/readers.py"], "hours; tests/test_fuzz.py has short runs"),
    "python tests/mutate.py": "hours",
    "python bench/llama_bench.py": "builds of llama.cpp take minutes; tests/test_scripts.py has programs like them",
    "gpt2rt batch 124M corpus.jsonl shared/job": "a cluster; tests/test_jobs_clusters.py has one here",
    "gpt2rt convert hf:": "the hub is far away; tests/test_huggingface.py has one here",
    "python bench/blind.py answers SmolLM2": "a download of 93 MB",
    "gpt2rt download": "its server is far away; tests/test_download.py has one here",
}
NEEDS = {  # packages beyond the wheel's dependencies
    "gpt2rt bundle 124M -o chat --target": "ziglang",
    "gpt2rt export": "safetensors",
    "gpt2rt serve": "starlette",
    "gpt2rt batch 124M requests.jsonl": "msgspec",
    "gpt2rt batch 124M prompts.parquet": "pyarrow",
    "curl": "starlette",
    "llm": "llm",
    "python bench/blind.py answers": "llm",
    "lm_eval": "lm_eval",
    **{f"python ask_{name}.py": name for name in ("openai", "litellm", "langchain_openai")},
}
SLOW = ("gpt2rt bench", "gpt2rt bundle 124M -o chat --target", "python bench/chat_quality.py --seeds")

# Files named in command lines, and their substitutes.
MODELS = ["demo.bin", "124M-int4.bin", "124M-int8.bin", "124M-f32.bin", "124M-f16.bin", "int8.bin", "f32.bin"]
CHECKPOINTS = {  # {folder: last part of the prefix}
    "models/124M": "model.ckpt",
    "checkpoint/run1": "model-1000",
    "CHECKPOINT": "model.ckpt",
    "DEMO": "model.ckpt",
}
NAMED = "named"  # the model folder of these command lines
TEXT = b"Hello! How are you?\nI am well. And you?\n" * 5
PASSAGES = json.dumps({"text": "It was a cold day in the old town"}).encode()
ROWS = b'{"id": "a", "text": "Hello! How are you?"}\n{"text": "I am well."}\n'
REQUESTS = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Hello"}}\n'
DIALOGUES = json.dumps({"turns": ["Hello!", "Hello! How are you?"]}).encode()
TEXTS = {
    **dict.fromkeys(["some-text.txt", "letter.txt", "letters.txt", "wiki.txt", "questions.txt", "dialogues.txt"], TEXT),
    "opening.txt": TEXT,
    "doctor.txt": b"(HELLO)\nSTART\n(MEMORY MY (0 = A) (0 = B) (0 = C) (0 = D))\n(MY ((0) (YES)))\n(NONE ((0) (OH)))\n",
    **dict.fromkeys(["ours.jsonl", "peers.jsonl"], b'{"answers": ["Hello!", "Fine.", "Nothing.", "Yes."]}\n' * 2),
    "judgments.txt": b"1 A 1111 1000\n2 = 1000 1000\n",
    "variants.toml": b'[[contestant]]\nname = "a"\nmodel = "demo"\n[[contestant]]\nname = "b"\nbuiltin = "eliza"\n',
    "battles.jsonl": b'{"winner": "tie", "model_a": "a", "model_b": "b"}\n',
    **dict.fromkeys(["book.txt", "mixture.txt"], TEXT),
    "corpus.jsonl": ROWS,
    "corpus.jsonl.gz": gzip.compress(ROWS),
    "requests.jsonl": REQUESTS,
    **dict.fromkeys(["book.txt.xz", "EVAL/heldout_prose.txt.xz", "EVAL/wikitext2_test_raw.txt.xz"], TEXT),
    **dict.fromkeys(["lambada_test.jsonl", "EVAL/lambada_test.jsonl.xz"], PASSAGES),
    **dict.fromkeys(["EVAL/heldout_dialogues.jsonl.xz", "DIALOGUES/small_talk.jsonl.xz"], DIALOGUES),
}


def blocks(path, language):
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def command_lines():
    """Return all command lines, each once, without comments."""
    found = []
    for path in DOCUMENTS:
        for block in blocks(path, "sh"):
            found += [re.sub(r"\s+#.*", "", line) for line in block.replace("\\\n", " ").splitlines()]
        if path.name == "cli.md":
            for block in blocks(path, "text"):
                found += re.findall(r"^    ((?:\w+=\S+ |echo [^|]*\| )?gpt2rt .*?)(?:   .*)?$", block, re.MULTILINE)
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A folder with all substitutes."""
    folder = tmp_path_factory.mktemp("documents")
    for name, prefix in CHECKPOINTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_checkpoint(folder / name, SMALL._replace(n_ctx=1024), name=prefix)
    for name in MODELS:
        convert(
            folder / "models/124M",
            folder / name,
            weight_type=next((t for t in ("f32", "f16", "int4") if t in name), "int8"),
        )
    write_nanogpt(folder / "out" / "ckpt.pt")
    (folder / "llm.c").mkdir()
    (folder / "llm.c" / "gpt2_124M.bin").write_bytes(model_bytes())
    (folder / "llm.c" / "gpt2_tokenizer.bin").write_bytes(tokenizer_bytes(simple_tokens()))
    (folder / NAMED).mkdir()
    shutil.copy(folder / "124M-int8.bin", folder / NAMED / "124M.bin")
    for name, content in TEXTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(lzma.compress(content) if name.endswith(".xz") else content)
    if importlib.util.find_spec("pyarrow"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"prompt": ["Hello!"]}), folder / "prompts.parquet")
    for name in ("bench", "train"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    chats = folder / "bench" / "chats.txt"
    chats.write_text("".join(chats.read_text().splitlines(keepends=True)[:2]))  # all of them take minutes
    return folder


def environment():
    """The environment variables of the commands, which are those of this environment."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    return {**inherited, "PATH": path, "GPT2RT_MODELS": NAMED, "PYSPARK_PYTHON": sys.executable}


def run(command, folder):
    """Run a command in a folder, and expect it to succeed."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def skip_without(package):
    """Skip the test if a package is not installed. It is not imported: some change the process that they are in."""
    if not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed")


def run_server(line, folder):
    """Run a server until it is ready, at a port of its own."""
    command = ["bash", "-euc", f"exec {line} --port 0"]
    with subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        process.terminate()
    assert first.startswith("serving ")


@pytest.mark.skipif(sys.platform == "win32", reason="the command lines are a POSIX shell's")
@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=[pytest.mark.slow] if line.startswith(SLOW) else []) for line in command_lines()]
)
def test_a_command_line_works(line, stand_ins, tmp_path):
    for start, reason in ELSEWHERE.items():
        if line.startswith(start):
            pytest.skip(reason)
    for start, package in NEEDS.items():
        if line.startswith(start):
            skip_without(package)
    wanted = re.match(r"GPT2RT_ISA=(\w+)", line)
    if wanted and wanted[1] not in available_isas():
        pytest.skip(f"this processor has no {wanted[1]}")
    # The output of a conversion must not exist beforehand.
    ignored = MODELS if "convert" in line else ["124M-int4.bin"] if "requantize" in line else []
    folder = shutil.copytree(stand_ins, tmp_path / "here", ignore=shutil.ignore_patterns(*ignored))
    if line.startswith("gpt2rt serve"):
        run_server(line, folder)
    else:
        run(["bash", "-euc", line], folder)


FRAMEWORKS = ("pyspark", "distributed")  # that start processes, which takes a while


def python_blocks():
    found = [block for path in DOCUMENTS for block in blocks(path, "python")]
    takes_long = [any(f"from {name}" in block for name in FRAMEWORKS) for block in found]
    return [pytest.param(block, marks=[pytest.mark.slow] * long) for block, long in zip(found, takes_long, strict=True)]


@pytest.mark.parametrize("block", python_blocks())
def test_python_works(block, stand_ins, tmp_path):
    for name in FRAMEWORKS:
        if f"from {name}" in block:
            skip_without(name)
    if "pyspark" in block and not shutil.which("java"):
        pytest.skip("Spark needs Java, which is not installed")
    script = tmp_path / "block.py"  # a file: processes that it starts import it again
    script.write_text(block)
    run([sys.executable, script], stand_ins)


def script(name):
    """A script of docs/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_output = script("make_output")  # "docs/make_output.py"
TAKING_LONG = ("arena.md", "tutorial.md", "compare.md", "clients.md")


@pytest.mark.skipif(sys.platform == "win32", reason="the command lines are a POSIX shell's")
@pytest.mark.skipif(not (ROOT / "train/demo-f16.bin").exists(), reason="the sdist has no train/demo-f16.bin")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.name in TAKING_LONG else [], id=path.name)
        for path in make_output.pages()
    ],
)
def test_the_output_on_a_page_is_what_its_commands_print(page):
    for start, package in NEEDS.items():
        if f"$ {start}" in page.read_text(encoding="utf-8"):
            skip_without(package)
    text = page.read_text(encoding="utf-8")
    with offline():
        assert make_output.with_output(text) == text, "run python docs/make_output.py"


def test_c_on_a_page_is_a_part_of_the_sources():
    sources = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "gpt2rt" / "core").glob("*.h"))]
    page = (ROOT / "docs" / "how-gpt2-works.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```c\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        assert any(block in source for source in sources), block


def test_cli_md_is_what_the_commands_say():
    make_cli = script("make_cli")
    assert make_cli.PAGE.read_text(encoding="utf-8") == make_cli.page(), "run python docs/make_cli.py"
