"""The documentation: a book that builds, and commands in it that run as they stand."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT, EXAMPLES, clean_environment, sinter_binary
from lifecycle_tools import free_port

DOCS = ROOT / "docs"


def blocks(page):
    """The commands of a page."""
    return re.findall(r"^```sh\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs commands in one shell after the other, in a folder with the examples and `sinter` on the path."""
    folder = tmp_path_factory.mktemp("book")
    (folder / "bin").mkdir()
    (folder / "bin" / "sinter").symlink_to(sinter_binary().resolve())
    (folder / "examples").symlink_to(EXAMPLES)
    port = free_port()
    environment = clean_environment({
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SINTER_URL": f"http://127.0.0.1:{port}",
        "SINTER_LISTEN": f"127.0.0.1:{port}"})

    def run(commands):
        return subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=folder, env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=1200)

    first = blocks("quick-start.md")[0]
    assert "SINTER_URL=http://127.0.0.1:8080\n" in first
    server = subprocess.Popen(["bash", "-c", first.replace(":8080", f":{port}") + "\nwait"], cwd=folder, env=environment,
                              start_new_session=True)
    run.folder = folder
    ready = run("for _ in $(seq 600); do curl -sf $SINTER_URL/readyz && exit 0; sleep 0.1; done; exit 1")
    assert ready.returncode == 0
    yield run
    os.killpg(server.pid, 15)
    server.wait(60)


def test_the_quick_start_runs_as_it_stands(shell):
    pages = blocks("quick-start.md")
    done = shell("\n".join(pages[1:]))
    assert done.returncode == 0, done.stderr
    for name in ("smaller/model.onnx", "smaller/report.html", "smaller.onnx"):
        assert (shell.folder / name).stat().st_size > 1000
    assert '"succeeded"' in done.stdout


def test_the_cookbook_runs_as_it_stands(shell):
    recipes = blocks("cookbook.md")
    assert len(recipes) >= 7
    done = shell("\n".join(recipes))
    assert done.returncode == 0, done.stderr + done.stdout
    assert (shell.folder / "front" / "pareto.json").exists()
    assert (shell.folder / "handed-on" / "bundle" / "MLmodel").exists()


def test_every_page_is_in_the_book_and_every_link_leads_somewhere():
    listed = set(re.findall(r"\(([\w-]+\.md)\)", (DOCS / "SUMMARY.md").read_text()))
    assert listed == {path.name for path in DOCS.glob("*.md")} - {"SUMMARY.md"}
    for page in [*DOCS.glob("*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_of_all_fields_is_what_the_service_says():
    checked = subprocess.run([sys.executable, DOCS / "generate", "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    page = (DOCS / "parameters.md").read_text()
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", page, re.M)}
    linked = set(re.findall(r"\]\(#([\w-]+)\)", page))
    assert linked <= anchors and len(linked) > 30


def test_the_book_builds(tmp_path):
    mdbook = os.environ.get("SINTER_MDBOOK") or shutil.which("mdbook")
    assert mdbook, "tests/run builds mdbook and names it in SINTER_MDBOOK"
    built = subprocess.run([mdbook, "build", str(DOCS), "--dest-dir", str(tmp_path)], text=True, capture_output=True, timeout=120)
    assert built.returncode == 0, built.stderr
    assert "ERROR" not in built.stderr and "WARN" not in built.stderr, built.stderr
    assert pathlib.Path(tmp_path / "quick-start.html").exists() and (tmp_path / "cookbook.html").exists()
