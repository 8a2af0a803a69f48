"""A job, from its submission to its files."""

from __future__ import annotations

import json
import math
import os
import pathlib
import time
import urllib.parse
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx
from tqdm.auto import tqdm

from . import types
from ._connection import lost, may_pass
from ._transfer import download, pages
from .errors import JobCanceled, JobFailed, SinterWarning

if TYPE_CHECKING:
    from ._connection import Connection

END_STATES = {"succeeded", "failed", "canceled"}

WATCHED_SECONDS = 2
"""How often a bar moves."""

UNWATCHED_SECONDS = 30

SILENCE_SECONDS = 60.0
"""The server says something on a stream of events every 15 s, if only that it is there."""


class Job:
    """A job as it was when it was last looked at. `data` is the JSON of the server."""

    def __init__(self, connection: Connection, data: types.Job) -> None:
        self._connection = connection
        self.data = data

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.data['kind']} {self.status}>"

    @property
    def id(self) -> str:
        return self.data["id"]

    @property
    def status(self) -> types.JobStatus:
        return self.data["status"]

    @property
    def ended(self) -> bool:
        return self.status in END_STATES

    @property
    def result(self) -> types.JobResult | None:
        """What came of it: the new model's id, the figures before and after; None until it succeeded."""
        return self.data["result"]

    @property
    def error(self) -> types.Problem | None:
        """Why it failed, if it did."""
        return self.data["error"]

    @property
    def warnings(self) -> list[types.Warning]:
        """What speaks against taking the result as it is; none before it succeeded."""
        return (self.result or {}).get("warnings", [])

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{self.id}"

    def refresh(self, wait: float = 0) -> Job:
        """Looks at it anew; with `wait` not before it has ended, or so many seconds (at most 60) have gone by."""
        headers = {"Prefer": f"wait={math.ceil(wait)}"} if wait else {}
        timeout = httpx.Timeout(self._connection.timeout, read=self._connection.timeout + wait)
        self.data = self._connection.request("GET", self._path, headers=headers, timeout=timeout).json()
        return self

    def wait(self, progress: bool = True, timeout: float | None = None) -> Job:
        """Waits for its success, with a bar on standard error; what its result warns of becomes a `SinterWarning`.

        Raises `JobFailed`, `JobCanceled`, or `TimeoutError` after `timeout` seconds; the job then still runs.
        """
        begun = time.monotonic()
        period = WATCHED_SECONDS if progress else UNWATCHED_SECONDS
        bar_format = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}{postfix}"
        described = self.data["name"] or self.data["kind"]
        with tqdm(total=1.0, desc=described, bar_format=bar_format, disable=not progress) as bar:
            while not self.refresh(self._left(begun, timeout, period)).ended:
                show(bar, self.data)
                if timeout is not None and time.monotonic() - begun >= timeout:
                    raise TimeoutError(f"job {self.id} is {self.status} after {timeout} s")
            show(bar, self.data)
        if self.status == "canceled":
            raise JobCanceled(self)
        if self.error is not None:
            raise JobFailed(self, self.error)
        for warning in self.warnings:
            warnings.warn(f"{described}: {warning['message']}", SinterWarning, stacklevel=2)
        return self

    @staticmethod
    def _left(begun: float, timeout: float | None, period: float) -> float:
        if timeout is None:
            return period
        # The server counts whole seconds; a wait of none is an answer at once.
        return max(1.0, min(period, timeout - (time.monotonic() - begun)))

    def events(self, follow: bool = False, after: int = 0) -> Iterator[types.Event]:
        """What happened, the oldest first; with `follow` also what happens until the job has ended.

        `after` leaves out everything up to the event of that id.
        """
        if not follow:
            for event in pages(self._connection, f"{self._path}/events"):
                if event["id"] > after:
                    yield event
            return
        pauses = self._connection.pauses()
        while True:
            # Everything is on the stream if the job had ended before it was opened.
            had_ended = self.refresh().ended
            try:
                for event in self._stream(after):
                    pauses.progress()
                    after = event["id"]
                    yield event
            except httpx.TransportError as error:
                fault = lost(error)
                if not may_pass(error, repeat=True):
                    raise fault from error
                pauses.wait(fault)
                continue
            if had_ended:
                return

    def _stream(self, after: int) -> Iterator[types.Event]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(after)} if after else {})}
        timeout = httpx.Timeout(self._connection.timeout, read=SILENCE_SECONDS)
        with self._connection.stream(f"{self._path}/events", headers=headers, timeout=timeout) as response:
            data: list[bytes] = []
            for line in lines(response.iter_bytes()):
                if line.startswith(b"data:"):
                    data.append(line.removeprefix(b"data:"))
                elif not line and data:
                    yield json.loads(b"\n".join(data))
                    data = []

    def metrics(self) -> dict[str, list[types.MetricPoint]]:
        """The curves by their names, such as `train/loss`."""
        series = self._connection.request("GET", f"{self._path}/metrics").json()["data"]
        return {each["name"]: each["points"] for each in series}

    def cancel(self) -> Job:
        """Asks for its end, which a running job reaches within seconds."""
        self.data = self._connection.request("POST", f"{self._path}/cancel").json()
        return self

    def retry(self) -> Job:
        """Queues it again after it failed or was canceled; it goes on from its last checkpoint."""
        # Sent twice, the second would be refused, since the job then waits.
        self.data = self._connection.request("POST", f"{self._path}/retry", repeat=False).json()
        return self

    def delete(self) -> None:
        """Removes an ended job and what only it holds. Its model stays."""
        self._connection.request("DELETE", self._path, repeat=False)

    def artifacts(self) -> list[types.Artifact]:
        """The files that it made."""
        rows: list[types.Artifact] = self._connection.request("GET", f"{self._path}/artifacts").json()["data"]
        return rows

    def download(self, name: str, path: str | os.PathLike[str] = ".", progress: bool = True) -> pathlib.Path:
        """Fetches one of its files, such as `model.onnx`, into a file or a folder, and returns where it is.

        It goes on after a cut, is verified, and is at the path only when it is whole.
        """
        address = f"{self._path}/artifacts/{urllib.parse.quote(name, safe='')}"
        return download(self._connection, address, target(path, name), progress)


def target(path: str | os.PathLike[str], name: str) -> pathlib.Path:
    """The path of a download: of that name in it, if it is a folder."""
    path = pathlib.Path(path)
    return path / name if path.is_dir() else path


def show(bar: tqdm[Any], job: types.Job) -> None:
    """Moves the bar to where the job is."""
    progress = job["progress"]
    if progress is None:
        position = job["queue_position"]
        bar.set_postfix_str(job["status"] if position is None else f"{job['status']}, {position} in the queue")
        return
    said = [progress["phase"]]
    if epochs := progress.get("epochs"):
        said.append(f"epoch {progress.get('epoch')} of {epochs}")
    if left := progress.get("eta_seconds"):
        said.append(f"{left:.0f} s left")
    bar.n = progress["fraction"]
    bar.set_postfix_str(", ".join(said))


def lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines of a stream of events. httpx's own would also end one at characters that JSON may hold, such as U+2028."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r")
