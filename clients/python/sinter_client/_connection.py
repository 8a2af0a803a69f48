"""Requests that are repeated where that is safe, and the errors that they end with."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from typing import Any

import httpx

from .errors import ApiError, ConnectionLost
from .types import Problem

LONGEST_PAUSE = 10.0
"""Seconds between two tries, unless the server names more."""

FIRST_RETRIES = 2

LONGEST_RETRY_AFTER = 120.0
"""Seconds that `Retry-After` may ask to wait; a server that wants more is not waited for."""

READING_TIMEOUT = 660.0
"""Seconds that the answer to an upload or a plan may take: the server's `inspect_timeout_seconds`, and a minute."""

GATEWAY_FAULTS = {502, 503, 504}

BUSY = {"idempotency_key_in_use", "upload_in_use"}
"""An earlier try of the same request, whose connection was lost, still runs."""


def problem_of(response: httpx.Response) -> Problem:
    """The problem that an answer carries; one of our own for answers of proxies and the like."""
    if is_problem(response):
        problem: Problem = response.json()
        return problem
    return {
        "type": "about:blank",
        "title": response.reason_phrase,
        "status": response.status_code,
        "code": f"http_{response.status_code}",
        "detail": response.text[:500].strip() or response.reason_phrase,
    }


def is_problem(response: httpx.Response) -> bool:
    media_type: str = response.headers.get("Content-Type", "")
    return media_type.startswith("application/problem+json")


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that the server asks to wait."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


class Pauses:
    """Counts the failures since there last was progress, and waits longer each time."""

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.failures = 0

    def wait(self, fault: Exception, at_least: float | None = None) -> None:
        """Waits before the next try, or raises the fault when there were enough."""
        if self.failures >= self.retries or (at_least or 0.0) > LONGEST_RETRY_AFTER:
            raise fault
        # Half of it by chance, so that clients that were cut off together don't come back together.
        pause = min(LONGEST_PAUSE, 0.25 * 2**self.failures) * random.uniform(0.5, 1.0)
        self.failures += 1
        time.sleep(max(pause, at_least or 0.0))

    def progress(self) -> None:
        self.failures = 0


class Connection:
    """An httpx client with the server's address and key. Threads may share it."""

    def __init__(self, url: str, key: str | None, timeout: float, retries: int) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        self.timeout = timeout
        self.retries = retries
        self.reached = False

    def close(self) -> None:
        self.http.close()

    def pauses(self) -> Pauses:
        # Before the first answer, a wrong address is more likely than a server that starts again.
        return Pauses(self.retries if self.reached else min(self.retries, FIRST_RETRIES))

    def request(
        self, method: str, path: str, *, repeat: bool = True, stream: bool = False, **options: Any
    ) -> httpx.Response:
        """Sends a request until it is answered with success.

        `repeat` says whether it may be sent again when it is not known if the server has carried it out; `stream`
        leaves the body to be read, and the answer to be closed, by the caller.
        """
        pauses = self.pauses()
        while True:
            try:
                response = self.http.send(self.http.build_request(method, path, **options), stream=stream)
                if response.is_success:
                    self.reached = True
                    return response
                response.read()
            except httpx.TransportError as error:
                fault = lost(error)
                if not may_pass(error, repeat):
                    raise fault from error
                pauses.wait(fault)
            else:
                refusal = ApiError(problem_of(response))
                if not is_passing(response, refusal, repeat):
                    raise refusal
                pauses.wait(refusal, retry_after(response))

    @contextlib.contextmanager
    def stream(self, path: str, **options: Any) -> Iterator[httpx.Response]:
        """A GET whose body is read as it comes."""
        response = self.request("GET", path, stream=True, **options)
        try:
            yield response
        finally:
            response.close()


def lost(error: httpx.TransportError) -> ConnectionLost:
    # Timeouts come without a text.
    fault = ConnectionLost(str(error) or type(error).__name__)
    # It may be raised later, when there were enough tries.
    fault.__cause__ = error
    return fault


def may_pass(error: httpx.TransportError, repeat: bool) -> bool:
    """Whether it makes sense, and does no harm, to send a request again after the error."""
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return False
    return repeat or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def is_passing(response: httpx.Response, refusal: ApiError, repeat: bool) -> bool:
    """Whether the same request may be answered otherwise a little later."""
    if response.status_code == 429 or (response.status_code == 409 and refusal.code in BUSY):
        return True
    if response.status_code not in GATEWAY_FAULTS:
        return False
    # A 503 of Sinter's own says that reading took too long, which it would again.
    told_to = "Retry-After" in response.headers
    return told_to or (repeat and not is_problem(response))
