"""Documents: the command lines that README.md, CONTRIBUTING.md and docs/ show work; cli.md is what the commands say.

Command lines are those of the blocks marked `sh`, and of the examples in the commands' help. They run in a folder of
stand-ins: a tiny model under every model's name that they use, its checkpoint under every checkpoint's, short texts.
"""

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

from gpt2rt._kernels import available_isas
from gpt2rt.converter import convert

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# What does not run here, by how it begins, and why.
ELSEWHERE = {
    **dict.fromkeys(["pip install", "python3 -m venv"], "an environment is made and installed into by .ci/run"),
    **dict.fromkeys(["ruff", "mypy", "lint-imports", "mkdocs"], ".ci/run does"),
    **dict.fromkeys(["export GPT2RT_DEBUG", "LD_PRELOAD"], "a build with sanitizers takes minutes"),
    **dict.fromkeys(
        [f"python train/{name}.py" for name in ("score", "prepare", "train", "export", "plot")],
        "an hour; tests/test_train.py",
    ),
    "cp WORK": "part of training",
    "pytest": "that is this run",
    "gpt2rt convert hf:": "the hub is far away; tests/test_huggingface.py has one here",
    "gpt2rt download": "its server is far away; tests/test_download.py has one here",
}
NEEDS = {"gpt2rt export": "safetensors"}  # packages beyond the wheel's own
SLOW = ("gpt2rt bench", "python bench/chat_quality.py --seeds")

# Files that command lines name, and what is put in their place.
MODELS = ["demo.bin", "124M-int8.bin", "124M-f32.bin", "124M-f16.bin", "int8.bin", "f32.bin"]
CHECKPOINTS = {  # and the last part of their prefix
    "models/124M": "model.ckpt",
    "checkpoint/run1": "model-1000",
    "CHECKPOINT": "model.ckpt",
    "DEMO": "model.ckpt",
}
TEXT = b"Hello! How are you?\nI am well. And you?\n" * 5
PASSAGES = json.dumps({"text": "It was a cold day in the old town"}).encode()
DIALOGUES = json.dumps({"turns": ["Hello!", "Hello! How are you?"]}).encode()
TEXTS = {
    **dict.fromkeys(["some-text.txt", "letter.txt", "letters.txt", "wiki.txt", "questions.txt", "dialogues.txt"], TEXT),
    **dict.fromkeys(["book.txt", "mixture.txt"], TEXT),
    **dict.fromkeys(["book.txt.xz", "EVAL/heldout_prose.txt.xz", "EVAL/wikitext2_test_raw.txt.xz"], TEXT),
    **dict.fromkeys(["lambada_test.jsonl", "EVAL/lambada_test.jsonl.xz"], PASSAGES),
    **dict.fromkeys(["EVAL/heldout_dialogues.jsonl.xz", "DIALOGUES/small_talk.jsonl.xz"], DIALOGUES),
}


def blocks(path, language):
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def command_lines():
    """All command lines, each once, without comments."""
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
    """A folder with all of them."""
    folder = tmp_path_factory.mktemp("documents")
    for name, prefix in CHECKPOINTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_checkpoint(folder / name, SMALL._replace(n_ctx=1024), name=prefix)
    for name in MODELS:
        convert(
            folder / "models/124M", folder / name, weight_type=next((t for t in ("f32", "f16") if t in name), "int8")
        )
    for name, content in TEXTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(lzma.compress(content) if name.endswith(".xz") else content)
    for name in ("bench", "train"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def run(command, folder):
    """Runs a command in a folder, with the commands of this environment, and expects it to succeed."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    result = subprocess.run(
        command,
        cwd=folder,
        env={**{key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr


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
            pytest.importorskip(package, reason=f"{package} is not installed")
    wanted = re.match(r"GPT2RT_ISA=(\w+)", line)
    if wanted and wanted[1] not in available_isas():
        pytest.skip(f"this processor has no {wanted[1]}")
    # What a conversion writes must not be there before.
    ignored = MODELS if "convert" in line else []
    folder = shutil.copytree(stand_ins, tmp_path / "here", ignore=shutil.ignore_patterns(*ignored))
    run(["bash", "-euc", line], folder)


@pytest.mark.parametrize("block", [block for path in DOCUMENTS for block in blocks(path, "python")])
def test_python_works(block, stand_ins):
    run([sys.executable, "-c", block], stand_ins)


def test_cli_md_is_what_the_commands_say():
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    make_cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_cli)
    assert make_cli.PAGE.read_text(encoding="utf-8") == make_cli.page(), "run python docs/make_cli.py"
