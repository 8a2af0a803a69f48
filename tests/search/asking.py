"""Searches of the built program (examples/search.rs) in which something here stands in for training."""

import itertools
import json
import os
import pathlib
import pickle
import subprocess
import sys
import types


class Asker:
    """One process; searches one after the other."""

    def __init__(self, program=None):
        self.process = subprocess.Popen([program or os.environ["SINTER_SEARCH"]], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)

    def search(self, space, strategy, trials, seed, judge):
        """`judge(point, share)` gives a value, or a list of them, that is made small; all that was judged, in order."""
        self.send({"space": space, "strategy": strategy, "trials": trials, "seed": seed})
        judged = []
        while (ask := json.loads(self.process.stdout.readline())) is not None:
            value = judge(ask["point"], ask["share"])
            judged.append((ask["point"], ask["share"], value))
            self.send(value if value is None or isinstance(value, list) else [value])
        return judged

    def send(self, line):
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()


EDGES = [f"edge{index}" for index in range(6)]
CELLS = {edge: {"choice": ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]} for edge in EDGES}


def nas_bench_201():
    """CIFAR-10 accuracy of each of the 15,625 cells, as the PyPI package analog-nasbench has it."""
    import importlib.util

    # Its code needs more than its data do.
    module = types.ModuleType("analognasbench.data")
    module.Architecture, module.DriftMeasurement = type("Architecture", (), {}), type("DriftMeasurement", (), {})
    folder = pathlib.Path(importlib.util.find_spec("analognasbench").submodule_search_locations[0])
    sys.modules.update({"analognasbench": types.ModuleType("analognasbench"), "analognasbench.data": module})
    try:
        found = pickle.loads((folder / "data.anb").read_bytes())
    finally:
        for name in ("analognasbench", "analognasbench.data"):
            del sys.modules[name]
    names = CELLS["edge0"]["choice"]
    return {tuple(names[index] for index in cell): found[cell].baseline_accuracy
            for cell in itertools.product(range(5), repeat=6)}
