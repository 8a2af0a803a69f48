"""What every test of the service starts from: a server of its own or a shared one, and its users.

The server is the built program, started as a person would start it and spoken to over HTTP.
`SINTER_BINARY` names the program; otherwise the debug build of this checkout is used.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import threading
import time
import urllib.parse

import pytest
import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DIGITS = EXAMPLES / "data" / "digits.npz"
DIGITS_CNN = EXAMPLES / "models" / "digits_cnn.onnx"
FASHION_CNN = EXAMPLES / "models" / "fashion_cnn.onnx"
FASHION_RESNET = EXAMPLES / "models" / "fashion_resnet.onnx"

END_STATES = {"succeeded", "failed", "canceled"}


def often(short, whole):
    """How often a disturbance is tried: `tests/run --long` tries all of them."""
    return whole if os.environ.get("SINTER_LONG") == "1" else short


def sinter_binary():
    """The program under test."""
    if named := os.environ.get("SINTER_BINARY"):
        return pathlib.Path(named).expanduser()
    target = os.environ.get("CARGO_TARGET_DIR", "~/.cache/sinter/target")
    return pathlib.Path(target).expanduser() / "debug" / "sinter"


def clean_environment(extra=None):
    """The environment without the settings of a developer's own server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SINTER_")}
    kept.update(extra or {})
    return kept


def run_sinter(*arguments, env=None, cwd=None, timeout=60):
    """Runs the program to its end; for commands and for servers that refuse to start."""
    return subprocess.run(
        [sinter_binary(), *map(str, arguments)],
        env=clean_environment(env),
        cwd=cwd,
        timeout=timeout,
        text=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


class Server:
    """A running `sinter serve` on a folder that it may share with an earlier or later one.

    `flags` go after `serve`; `env` is laid over an environment without `SINTER_*`. `listen` or
    `data_dir_flag` set to None leave the flag out, so that it can come from elsewhere.
    """

    def __init__(self, folder, flags=(), env=None, key=None, listen="127.0.0.1:0", data_dir_flag=True):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data_dir = self.folder / "data"
        self.log_path = self.folder / "stderr.log"
        self.flags = [str(flag) for flag in flags]
        self.env = dict(env or {})
        self.key = key
        self.listen = listen
        self.data_dir_flag = data_dir_flag
        self.process = None
        self.url = None
        self.stdout_lines = []

    # Life.

    def start(self, timeout=60):
        command = [str(sinter_binary()), "serve"]
        if self.listen is not None:
            command += ["--listen", self.listen]
        if self.data_dir_flag:
            command += ["--data-dir", str(self.data_dir)]
        command += self.flags
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=clean_environment(self.env),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        spoken = threading.Event()

        def read_output(process):
            for line in process.stdout:
                self.stdout_lines.append(line.rstrip("\n"))
                if line.startswith("sinter listens on "):
                    self.url = line.removeprefix("sinter listens on ").strip()
                    spoken.set()
            spoken.set()

        self.url = None
        threading.Thread(target=read_output, args=(self.process,), daemon=True).start()
        if not spoken.wait(timeout) or self.url is None:
            self.kill()
            raise RuntimeError(f"the server did not start; its log:\n{self.log()}")
        return self

    def wait_ready(self, timeout=60):
        """Waits for `/readyz` 200."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.get("/readyz").status_code == 200:
                return self
            time.sleep(0.05)
        raise TimeoutError(f"not ready after {timeout} s; the log:\n{self.log()}")

    def stop(self, timeout=60):
        """SIGTERM; returns the exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self):
        """SIGKILL to the server process alone."""
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait(30)

    def restart(self):
        self.stop()
        return self.start()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        """Everything that was written to standard error, by all starts in this folder."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def peak_memory_bytes(self):
        """The largest resident size that the server process ever had (VmHWM)."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmHWM")

    def child_pids(self):
        """Process ids of the server's children."""
        children = []
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            # A thread may end meanwhile; its children are another one's then.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children += (task / "children").read_text().split()
        return [int(child) for child in children]

    def stored_files(self):
        """Relative paths of all files in the data folder except the database and its log."""
        # What goes while it is looked at is no fault, which `rglob` would make it.
        found = (pathlib.Path(folder, name) for folder, _, names in os.walk(self.data_dir) for name in names)
        return sorted(
            str(path.relative_to(self.data_dir))
            for path in found
            if path.is_file() and ".db" not in path.name and ".sqlite" not in path.name
        )

    def staged_files(self):
        return [name for name in self.stored_files() if name.startswith("staging/")]

    # HTTP.

    def request(self, method, path, *, headers=None, timeout=120, **options):
        headers = dict(headers or {})
        if self.key is not None:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        return requests.request(
            method, self.url + path, headers=headers, timeout=timeout, **options
        )

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, **options):
        return self.request("POST", path, **options)

    def delete(self, path, **options):
        return self.request("DELETE", path, **options)

    def is_healthy(self):
        answer = self.get("/healthz", timeout=60)
        return answer.status_code == 200 and answer.json() == {"status": "ok"}

    # Users' doings. Each asserts the status and gives back the JSON.

    def post_model(self, content, name="model", *, params=None, **options):
        """Posts the bytes, or the file at a path, as a model and returns the raw answer."""
        return self._post_file("/v1/models", content, name, params, options)

    def post_dataset(self, content, name="data", *, params=None, **options):
        return self._post_file("/v1/datasets", content, name, params, options)

    def _post_file(self, route, content, name, params, options):
        params = {"name": name, **(params or {})}
        if isinstance(content, (str, pathlib.Path)):
            with open(content, "rb") as file:
                return self.post(route, params=params, data=file, **options)
        return self.post(route, params=params, data=content, **options)

    def upload_model(self, content=DIGITS_CNN, name="model", **options):
        answer = self.post_model(content, name, **options)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def upload_dataset(self, content=DIGITS, name="data", **options):
        answer = self.post_dataset(content, name, **options)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def submit(self, kind, model, dataset=None, params=None, **more):
        """Queues a job; `model` and `dataset` are ids or the JSON of uploads, or what else the API takes."""
        body = {"kind": kind, "model": _id(model), **more}
        if dataset is not None:
            body["dataset"] = _id(dataset)
        if params is not None:
            body["params"] = params
        answer = self.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def job(self, job):
        answer = self.get(f"/v1/jobs/{_id(job)}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait(self, job, timeout=300):
        """Waits for an end state by `Prefer: wait` and returns the job."""
        deadline = time.monotonic() + timeout
        while True:
            left = max(1, min(30, int(deadline - time.monotonic())))
            answer = self.get(f"/v1/jobs/{_id(job)}", headers={"Prefer": f"wait={left}"})
            assert answer.status_code == 200, answer.text
            seen = answer.json()
            if seen["status"] in END_STATES:
                return seen
            if time.monotonic() > deadline:
                raise TimeoutError(f"still {seen['status']} after {timeout} s: {seen}")

    def wait_for(self, job, condition, timeout=120):
        """Polls the job until `condition(job)` holds and returns it."""
        deadline = time.monotonic() + timeout
        while True:
            seen = self.job(job)
            if condition(seen):
                return seen
            if time.monotonic() > deadline:
                raise TimeoutError(f"the condition did not come about in {timeout} s: {seen}")
            time.sleep(0.05)

    def run(self, kind, model, dataset=None, params=None, timeout=300, **more):
        """Submits a job, waits for it and requires success."""
        ended = self.wait(self.submit(kind, model, dataset, params, **more), timeout)
        assert ended["status"] == "succeeded", ended["error"]
        return ended

    def events(self, job):
        """All events of the job, through all pages."""
        return self.all_rows(f"/v1/jobs/{_id(job)}/events")

    def artifact(self, job, name):
        answer = self.get(f"/v1/jobs/{_id(job)}/artifacts/{name}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def model_content(self, model):
        answer = self.get(f"/v1/models/{_id(model)}/content")
        assert answer.status_code == 200, answer.text
        return answer.content

    def all_rows(self, path, limit=100):
        """All rows of a list, page by page."""
        rows, cursor = [], None
        while True:
            params = {"limit": limit, **({"cursor": cursor} if cursor else {})}
            answer = self.get(path, params=params)
            assert answer.status_code == 200, answer.text
            rows += answer.json()["data"]
            cursor = answer.json()["next_cursor"]
            if cursor is None:
                return rows


def _id(thing):
    return thing["id"] if isinstance(thing, dict) and "id" in thing else thing


def assert_problem(answer, status, code=None, *, pointer=None, says=()):
    """Checks an RFC 9457 answer whole and returns it."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:2000]}"
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"].endswith("#" + problem["code"])
    assert problem["title"] and problem["detail"]
    assert problem["instance"] == urllib.parse.urlsplit(answer.url).path
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    if code is not None:
        assert problem["code"] == code, problem
    if pointer is not None:
        assert pointer in [fault["pointer"] for fault in problem.get("errors", [])], problem
    for word in [says] if isinstance(says, str) else says:
        assert word in problem["detail"], problem
    return problem


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Tells fixtures of `test_bad_input` whether their test has failed."""
    report = yield
    if call.when == "call" and report.failed:
        failed = getattr(item.module, "FAILED", None)
        if failed is not None:
            item.stash[failed] = True
    return report


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for all tests that only add to it."""
    with Server(tmp_path_factory.mktemp("shared")) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def start_server(tmp_path):
    """Starts servers for one test alone: `start_server(*flags, env=…, key=…)`.

    All of them are stopped at the end. `folder` gives a server the folder of another one.
    """
    started = []

    def start(*flags, folder=None, **options):
        folder = folder or tmp_path / f"server{len(started)}"
        running = Server(folder, flags, **options)
        started.append(running)
        return running.start().wait_ready()

    yield start
    for running in started:
        running.stop()


@pytest.fixture(scope="session")
def digits_model(server):
    """The PyTorch CNN for the digits, uploaded to the shared server; don't delete it."""
    return server.upload_model(DIGITS_CNN, "digits-cnn")


@pytest.fixture(scope="session")
def digits(server):
    """The digits, uploaded to the shared server; don't delete them."""
    return server.upload_dataset(DIGITS, "digits")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate that signs itself, for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-addext", "basicConstraints=critical,CA:FALSE",
                    "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


# Files that take minutes, the longest first: where two run at a time, none of them is left for the end.
LONG = ["test_walkthroughs.py", "test_fashion.py", "test_search.py", "test_page.py", "test_mlflow.py", "test_distill.py"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
