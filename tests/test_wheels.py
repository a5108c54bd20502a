"""Every platform gets an abi3 wheel and one for free-threaded Python, according to cibuildwheel, offline."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("cibuildwheel", reason="cibuildwheel is not installed")

ROOT = pathlib.Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "wheels.yml"
SYSTEM = {"manylinux": "linux", "musllinux": "linux", "macosx": "macos", "win": "windows"}  # in cibuildwheel's terms
SKIPPED = {"manylinux": "*-musllinux_*", "musllinux": "*-manylinux_*"}
PLATFORMS = {
    ("manylinux", "x86_64"),
    ("manylinux", "aarch64"),
    ("musllinux", "x86_64"),
    ("musllinux", "aarch64"),
    ("macosx", "x86_64"),
    ("macosx", "arm64"),
    ("win", "AMD64"),
    ("win", "ARM64"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WORKFLOW.exists(), reason="the sdist has no workflows"),
]


def test_the_workflow_builds_wheels_for_every_platform():
    matrix = re.findall(r"\{ platform: (\w+), archs: (\w+), os: ", WORKFLOW.read_text(encoding="utf-8"))
    assert len(matrix) == len(PLATFORMS)
    assert set(matrix) == PLATFORMS


@pytest.mark.parametrize(("platform", "arch"), sorted(PLATFORMS))
def test_a_platform_gets_an_abi3_wheel_and_a_free_threaded_one(platform, arch):
    options = ["--platform", SYSTEM[platform], "--archs", arch]
    listed = subprocess.run(
        [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", *options, str(ROOT)],
        env={**os.environ, "CIBW_SKIP": SKIPPED.get(platform, "")},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    pythons = [identifier.removesuffix(f"-{platform}_{arch.lower()}") for identifier in listed]
    assert pythons[0] == "cp311"  # builds the abi3 wheel, which newer Pythons use too
    assert {"cp311", "cp314", "cp314t", "cp315"} <= set(pythons)
    assert all(re.fullmatch(r"cp3\d+t?", python) for python in pythons)
