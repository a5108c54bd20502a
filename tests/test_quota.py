"""The limits of control groups on the number of threads, with what the system's files say of them."""

import io

import pytest

from gpt2rt import threads


@pytest.fixture
def system(monkeypatch):
    """system(groups, files): the process is in these groups; each path under /sys/fs/cgroup has this content."""

    def use(groups, files):
        contents = {"/proc/self/cgroup": groups, **{f"/sys/fs/cgroup{path}": text for path, text in files.items()}}

        def read(path):
            if path not in contents:
                raise FileNotFoundError(path)
            return io.StringIO(contents[path])

        monkeypatch.setattr(threads, "open", read, raising=False)
        return threads.thread_limits().get("control group quota")

    return use


VERSION_1 = "3:cpu,cpuacct:/a/b\n2:memory:/a\n"


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        pytest.param("0::/\n", {}, None, id="none"),
        pytest.param("0::/a\n", {"/a/cpu.max": "max 100000\n"}, None, id="max"),
        pytest.param("0::/a\n", {"/a/cpu.max": "150000 100000\n"}, 1.5, id="own"),
        pytest.param(
            "0::/a/b\n", {"/a/b/cpu.max": "400000 100000\n", "/a/cpu.max": "150000 100000\n"}, 1.5, id="outer"
        ),
        pytest.param("0::/a/b\n", {"/a/b/cpu.max": "50000 100000\n", "/a/cpu.max": "300000 100000\n"}, 0.5, id="inner"),
        pytest.param("0::/a/b\n", {"/a/b/cpu.max": "max 100000\n", "/cpu.max": "200000 100000\n"}, 2.0, id="root"),
        pytest.param("0::/a\n", {"/a/cpu.max": "100000 0\n"}, None, id="no_period"),
        pytest.param("0::/a\n", {"/a/cpu.max": "garbage\n"}, None, id="garbage"),
        pytest.param(
            VERSION_1,
            {
                **{"/cpu/a/b/cpu.cfs_quota_us": "-1\n", "/cpu/a/b/cpu.cfs_period_us": "100000\n"},
                **{"/cpu/a/cpu.cfs_quota_us": "250000\n", "/cpu/a/cpu.cfs_period_us": "100000\n"},
            },
            2.5,
            id="version_1",
        ),
    ],
)
def test_the_quota_is_the_smallest_of_all_groups_around_the_process(system, groups, files, quota):
    assert system(groups, files) == quota


@pytest.mark.parametrize(("quota", "expected"), [(50_000, 1), (100_000, 1), (175_000, 1), (250_000, 2)])
def test_threads_are_the_quota_rounded_down_but_at_least_one(system, monkeypatch, quota, expected):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    system("0::/a\n", {"/a/cpu.max": f"{quota} 100000\n"})
    assert threads.default_threads() == threads.most_threads() == expected
