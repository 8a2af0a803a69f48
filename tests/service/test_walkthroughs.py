"""The examples as a newcomer runs them, against a server of their own."""

import json
import os
import subprocess
import sys

import pytest

from conftest import EXAMPLES


@pytest.fixture(scope="module")
def walk_server(tmp_path_factory):
    from conftest import Server

    with Server(tmp_path_factory.mktemp("walk")) as running:
        yield running.wait_ready()


def environment(server, **more):
    """With the tests' own Python in front, which has what the scripts import."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "BASE": server.url, "EXAMPLES": str(EXAMPLES), **more}


def check(trained, pruned, student):
    """Half of the multiply-accumulates within a point, and a student of a quarter above its control."""
    accuracy = lambda figures: figures["metrics"]["accuracy"]
    assert pruned["change"]["macs_ratio"] <= 0.5
    assert accuracy(pruned["after"]) >= accuracy(trained["after"]) - 0.01
    assert student["after"]["macs"] <= 0.25 * trained["after"]["macs"]
    assert accuracy(student["after"]) > accuracy(student["distill"]["control"])


def test_images_with_curl(walk_server, tmp_path):
    done = subprocess.run(["bash", EXAMPLES / "images.sh"], env=environment(walk_server, OUT=str(tmp_path)),
                          capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "says the pruned model" in done.stdout and "| student |" in done.stdout
    check(*(json.loads((tmp_path / name / "job.json").read_text())["result"] for name in ("trained", "pruned", "student")))
    assert (tmp_path / "pruned" / "report.html").stat().st_size > 10_000


def test_images_in_a_notebook(walk_server, tmp_path):
    cells = json.loads((EXAMPLES / "images.ipynb").read_text())["cells"]
    source = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    source += "\n\nimport json; print(json.dumps([trained, pruned, student, by_runtime, by_service]))"
    done = subprocess.run([sys.executable, "-c", source], env=environment(walk_server), cwd=tmp_path,
                          capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    trained, pruned, student, by_runtime, by_service = json.loads(done.stdout.splitlines()[-1])
    check(trained, pruned, student)
    assert by_runtime == by_service["class"] == "bag"
