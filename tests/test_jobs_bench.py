"""The benchmarks of batch jobs run, and predict what a simulation finds."""

import json
import sys

import pytest
from demo import DEMO, demo_model
from scripts import ROOT, cells, run


@pytest.fixture(scope="module", autouse=True)
def needs_demo():
    demo_model()
    pytest.importorskip("msgspec", reason="the extra 'server' is not installed")


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    import batch_scaling

    return batch_scaling


OPTIONS = ("--rows", 20, "--tokens", 3, "--prompt-tokens", 4, "--shard-size", 5, "--rounds", 2, "--threads", 2)


@pytest.mark.slow
def test_ways_to_run_a_job_are_measured_next_to_each_other():
    found = cells(run("bench/batch.py", DEMO, *OPTIONS))
    assert {"gpt2rt batch, 1 process", "gpt2rt batch, 2 processes"} <= set(found)
    assert found["gpt2rt batch, 1 process"][-1] == "1.000"


@pytest.mark.slow
def test_every_rounds_seconds_are_in_the_json():
    ways = json.loads(run("bench/batch.py", DEMO, *OPTIONS, "--json"))["ways"]
    assert all(len(way["rounds"]) == 2 for way in ways.values())


def test_a_peer_without_its_model_is_refused():
    assert "--hugging-face" in run("bench/batch.py", DEMO, "--vllm", sys.executable, status=2)


@pytest.mark.slow
def test_a_prediction_has_the_costs_and_a_row_for_each_number_of_places():
    found = json.loads(run("bench/batch_scaling.py", DEMO, "--sample", 20, "--rounds", 1, "--json"))
    assert 0 < found["survey"] < found["row"]
    assert [row["places"] for row in found["predictions"]] == [1, 4, 16, 64, 256, 1024, 4096, 16384]


@pytest.mark.slow
def test_the_driver_s_cost_of_ray_s_tasks_is_measured():
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    plain, ray = (
        json.loads(run("bench/batch_scaling.py", DEMO, "--sample", 20, "--rounds", 1, "--json", *options))
        for options in ((), ("--ray",))
    )
    assert 0 < ray["driver"] < 1
    assert ray["driver"] != plain["driver"]


@pytest.mark.parametrize("places", [1, 3, 16, 200, 1000, 5000])
@pytest.mark.parametrize(("row", "driver"), [(0.05, 0.001), (0.001, 0.01), (0.2, 0.00001)])
def test_the_model_agrees_with_the_simulation(scaling, places, row, driver):
    costs = scaling.Costs(5e-6, driver, row)
    expected = scaling.simulated(costs, 40_000, 100, places)
    # A place has done its last shard, or has 100 rows of it left.
    assert abs(costs.seconds(40_000, 100, places) - expected) < 0.06 * expected + row * 100


def test_more_places_than_the_driver_can_supply_do_not_help(scaling):
    costs = scaling.Costs(0, 0.01, 0.01)
    assert costs.most_places(1_000_000, 100) == pytest.approx(100)
    at, beyond = (scaling.simulated(costs, 100_000, 100, places) for places in (100, 1000))
    assert beyond > 0.9 * at
