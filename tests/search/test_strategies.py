"""Strategies on tables and functions that stand in for training, beside Optuna's.

tests/run names the program in SINTER_SEARCH.
"""

import math
import os
import pathlib

import numpy as np
import optuna
import pytest

from asking import CELLS, EDGES, Asker, nas_bench_201

optuna.logging.set_verbosity(optuna.logging.ERROR)
SEEDS = 100


@pytest.fixture(scope="module")
def asker():
    with Asker() as asker:
        yield asker


@pytest.fixture(scope="module")
def table():
    found = nas_bench_201()
    assert len(found) == 15_625 and max(found.values()) == pytest.approx(94.07, abs=0.01)
    return found


def bests(asker, table, strategy, trials, seeds=SEEDS):
    """The best accuracy of each seed's search."""
    def judge(point, _):
        return -table[tuple(point[edge] for edge in EDGES)]

    best = []
    for seed in range(seeds):
        judged = asker.search(CELLS, strategy, trials, seed, judge)
        points = [tuple(point.values()) for point, _, _ in judged]
        assert len(points) == trials == len(set(points)), "a point was judged twice"
        best.append(-min(value for _, _, value in judged))
    return np.array(best)


def error(values):
    return values.std(ddof=1) / math.sqrt(len(values))


@pytest.mark.parametrize(("name", "trials", "least"), [("genetic", 150, 94.00), ("greedy", 150, 93.95),
                                                       ("tpe", 50, 93.78)])
def test_on_nas_bench_201_they_find_what_random_search_does_not(asker, table, name, trials, least):
    found = bests(asker, table, {"name": name}, trials)
    by_chance = bests(asker, table, {"name": "random"}, trials)
    assert by_chance.mean() == pytest.approx({150: 93.58, 50: 93.28}[trials], abs=0.1)
    assert found.mean() >= least, found.mean()
    assert found.mean() - error(found) > by_chance.mean() + error(by_chance)


def test_tpe_is_not_behind_optunas_on_nas_bench_201(asker, table):
    def optunas(seed):
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(
            seed=seed, multivariate=True))
        study.optimize(lambda trial: table[tuple(
            trial.suggest_categorical(edge, CELLS[edge]["choice"]) for edge in EDGES)], n_trials=50)
        return study.best_value

    theirs = np.array([optunas(seed) for seed in range(20)])
    own = bests(asker, table, {"name": "tpe"}, 50)
    assert own.mean() + error(own) >= theirs.mean() - error(theirs), (own.mean(), theirs.mean())


def test_exhaustive_visits_every_point_once_and_ends(asker):
    space = {"a": {"choice": ["x", "y", "z"]}, "b": {"int": [1, 4]}, "c": {"choice": [1, 2], "when": {"a": ["y"]}}}
    judged = asker.search(space, {"name": "exhaustive"}, 100, 0, lambda point, _: point["b"])
    points = [tuple(sorted(point.items())) for point, _, _ in judged]
    assert len(points) == len(set(points)) == 2 * 4 + 4 * 2
    assert all(("c" in point) == (point["a"] == "y") for point, _, _ in judged)


@pytest.mark.parametrize("name", ["random", "greedy", "genetic", "tpe"])
def test_a_space_that_is_used_up_ends_the_search(asker, name):
    space = {"a": {"choice": [1, 2, 3]}, "b": {"choice": ["x", "y"]}}
    judged = asker.search(space, {"name": name}, 50, 1, lambda point, _: point["a"])
    assert len(judged) == len({tuple(point.items()) for point, _, _ in judged}) == 6


@pytest.mark.parametrize("strategy", [{"name": "random"}, {"name": "greedy"}, {"name": "genetic"}, {"name": "tpe"},
                                      {"name": "successive_halving", "around": {"name": "tpe"}}])
def test_the_seed_decides_and_failures_are_borne(asker, strategy):
    space = {"x": {"uniform": [-1, 1]}, "rate": {"log_uniform": [1e-4, 1]}, "n": {"log_int": [1, 64]}}

    def judge(point, share):
        assert -1 <= point["x"] <= 1 and 1e-4 <= point["rate"] <= 1 and 1 <= point["n"] <= 64
        if point["n"] % 5 == 0:
            return None
        return point["x"] ** 2 + abs(math.log10(point["rate"]) + 2) + abs(point["n"] - 16) / 64 + 0.1 / share

    once, again, other = (asker.search(space, strategy, 40, seed, judge) for seed in (3, 3, 4))
    assert once == again != other
    whole = [value for _, share, value in once if share == 1 and value is not None]
    assert min(whole) < 0.9


@pytest.mark.parametrize("name", ["genetic", "tpe"])
def test_several_objectives_give_a_front(asker, name):
    """ZDT1 (Zitzler, Deb and Thiele 2000) in four dimensions: more of it than random search covers."""
    space = {f"x{index}": {"uniform": [0, 1]} for index in range(4)}

    def judge(point, _):
        first, *others = point.values()
        g = 1 + 9 * sum(others) / len(others)
        return [first, g * (1 - math.sqrt(first / g))]

    def covered(strategy, seed):
        values = sorted(value for _, _, value in asker.search(space, strategy, 120, seed, judge))
        volume, lowest = 0, 11.0
        for first, second in values:
            if second < lowest:
                volume += (1.1 - min(first, 1.1)) * (lowest - second)
                lowest = second
        return volume

    own = np.array([covered({"name": name}, seed) for seed in range(10)])
    by_chance = np.array([covered({"name": "random"}, seed) for seed in range(10)])
    assert own.mean() - error(own) > by_chance.mean() + error(by_chance), (own.mean(), by_chance.mean())


def test_halving_trains_few_points_for_long(asker):
    """81 points whose noise falls with the length of training: nearly the best for a sixth of the epochs."""
    space = {"x": {"choice": list(range(81))}}
    spent, found = [], []
    for seed in range(30):
        random = np.random.default_rng(seed)
        values = random.normal(size=81)
        judged = asker.search(space, {"name": "successive_halving"}, 81, seed,
                              lambda point, share: float(values[point["x"]] + 0.2 * random.normal() * (1 - share)))
        assert [sum(1 for _, share, _ in judged if abs(share - 3.0 ** -left) < 1e-9) for left in (4, 3, 2, 1, 0)] == [
            81, 27, 9, 3, 1]
        spent.append(sum(share for _, share, _ in judged))
        found.append((values < values[judged[-1][0]["x"]]).sum())
    assert np.mean(spent) < 81 / 5 and np.mean(found) < 2, (np.mean(spent), found)


def test_hyperband_has_brackets_of_every_length(asker):
    judged = asker.search({"x": {"uniform": [0, 1]}}, {"name": "hyperband", "rounds": 3}, 40, 0,
                          lambda point, share: point["x"])
    shares = [round(share, 3) for _, share, _ in judged]
    assert set(shares) == {0.111, 0.333, 1.0}
    firsts = {}
    for (point, share, _) in judged:
        firsts.setdefault(point["x"], share)
    assert {round(share, 3) for share in firsts.values()} == {0.111, 0.333, 1.0}


def spent(process):
    """Seconds of a processor; others that are at work on the machine don't count."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_ten_thousand_trials_take_less_than_a_minute(asker, table):
    begun = spent(asker.process)
    for name in ("genetic", "tpe"):
        space = {f"x{index}": {"uniform": [0, 1]} for index in range(6)}
        judged = asker.search(space, {"name": name}, 10_000, 0, lambda point, _: sum(point.values()))
        assert len(judged) == 10_000
        seconds, begun = spent(asker.process) - begun, spent(asker.process)
        assert seconds < 60, (name, seconds)
