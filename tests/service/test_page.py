"""The web page: a person's way through it in a real browser, and what it costs to load.

The way itself is `tests/browser/journey.mjs`, run by Node.js with Chromium; see there for how to work on the page
without building the server.
"""

import html.parser
import os
import pathlib
import re
import shutil
import subprocess
import time
import urllib.parse

import pytest
import requests

from conftest import ROOT
from test_access import new_key

BROWSER = ROOT / "tests" / "browser"
ASSETS = ROOT / "src" / "api" / "pages" / "assets"
POLICY = {
    "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "connect-src": "'self'",
    "img-src": "'self' data: blob:", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
}
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def walk(server, folder, **environment):
    """Runs the journey against a server; its screenshots are in the folder."""
    chromium = os.environ.get("SINTER_CHROMIUM", "/usr/bin/chromium")
    if not pathlib.Path(chromium).exists():
        pytest.fail(f"there is no {chromium}: tests/run installs it, SINTER_CHROMIUM names another one")
    if not (BROWSER / "node_modules").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=BROWSER, check=True, timeout=300)
    kept = {name: value for name, value in os.environ.items() if name != "SINTER_PAGE_DIR"}
    ended = subprocess.run(
        [shutil.which("node") or "node", "journey.mjs", server.url, str(folder)],
        cwd=BROWSER, env={**kept, **environment}, capture_output=True, text=True, timeout=2400, check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\nscreenshots: {folder}"
    return ended.stdout


def policy_of(answer):
    directives = [directive.strip().split(" ", 1) for directive in answer.headers["Content-Security-Policy"].split(";")]
    return {name: value for name, value in (directive for directive in directives if directive != [""])}


class Loads(html.parser.HTMLParser):
    """Everything that the HTML itself has loaded, and what a strict policy would block."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.blocked = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "script":
            self.addresses.append(attributes["src"])
        if tag == "link":
            self.addresses.append(attributes["href"])
        self.blocked += [name for name in attributes if name == "style" or name.startswith("on")]
        self.blocked += [tag] if tag == "style" else []


def static_imports(script):
    """Names of the modules that a module needs before it runs; those that wait for a visit are `import(…)`."""
    return re.findall(r'^import [^;]*? from "\./([\w.-]+)";', script, re.MULTILINE)


def first_load(server):
    """Answers by path of all that the first page loads: its HTML, styles, modules, and those of the overview."""
    first = requests.get(server.url + "/", timeout=30)
    answers, waiting = {"/": first}, [f"/{address}" for address in Loads(first.text).addresses] + ["/assets/overview.js"]
    while waiting:
        path = waiting.pop()
        if path in answers:
            continue
        answers[path] = requests.get(server.url + path, timeout=30)
        if path.endswith(".js"):
            waiting += [f"/assets/{name}" for name in static_imports(answers[path].text)]
    return answers


def test_a_person_finds_the_way_through_the_page(start_server, tmp_path):
    said = walk(start_server(), tmp_path / "screenshots")
    assert "by keyboard alone" in said and "a phone of 360 pixels" in said


def test_the_page_asks_for_the_key_where_the_server_needs_one(start_server, tmp_path):
    running = start_server()
    walk(running, tmp_path / "screenshots", SINTER_PAGE_KEY=new_key(running, name="page"))


def test_the_first_page_is_small_and_there_at_once(server):
    answers = first_load(server)
    assert all(answer.status_code == 200 for answer in answers.values()), answers
    # As transferred: what the server compresses counts compressed.
    transferred = 0
    for path in answers:
        with requests.get(server.url + path, stream=True, timeout=30) as answer:
            transferred += len(answer.raw.read(decode_content=False))
    assert transferred < 100_000, {path: len(answer.content) for path, answer in answers.items()}
    times = []
    for _ in range(20):
        began = time.monotonic()
        assert requests.get(server.url + "/", timeout=30).status_code == 200
        times.append(time.monotonic() - began)
    assert min(times) < 0.2, times


def test_the_page_runs_only_what_this_server_gives_it(server):
    answer = requests.get(server.url + "/", timeout=30)
    assert policy_of(answer) == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = Loads(answer.text)
    assert page.blocked == []
    for address in page.addresses:
        assert not urllib.parse.urlsplit(address).netloc and not address.startswith("/"), f"{address} would miss a path's prefix"


def test_every_file_of_the_page_is_served_as_it_is(server):
    files = sorted(ASSETS.iterdir())
    assert {"app.js", "style.css", "favicon.svg", "uplot.js"} <= {file.name for file in files}
    for file in files:
        answer = requests.get(f"{server.url}/assets/{file.name}", timeout=30)
        assert answer.status_code == 200, file.name
        assert answer.content == file.read_bytes(), file.name
        assert answer.headers["Content-Type"].split(";")[0] == MEDIA_TYPES[file.suffix], file.name
        tag = answer.headers["ETag"]
        again = requests.get(answer.url, headers={"If-None-Match": tag}, timeout=30)
        assert again.status_code == 304 and again.content == b"", file.name
    report = requests.get(f"{server.url}/assets/report.css", timeout=30)
    assert report.text == (ROOT / "src" / "engine" / "report" / "style.css").read_text()
    assert requests.get(f"{server.url}/assets/nothing.js", timeout=30).status_code == 404


def test_every_module_that_is_named_exists():
    # Beside the page's own files the style sheet of reports.
    names = {file.name for file in ASSETS.iterdir()} | {"report.css"}
    for script in ASSETS.glob("*.js"):
        text = script.read_text()
        for name in re.findall(r'(?:from |import\()"\./([\w.-]+)"', text) + re.findall(r'"assets/([\w.-]+)"', text):
            assert name in names, f"{script.name} names {name}"
