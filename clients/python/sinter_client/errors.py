"""What can go wrong; everything that the client raises of its own is a `SinterError`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .types import FieldError, Problem

if TYPE_CHECKING:
    from .job import Job


class SinterError(Exception):
    """The base of all errors of this package."""


class SinterWarning(UserWarning):
    """A job succeeded, and says what speaks against taking its result as it is."""


class UnknownName(SinterError, LookupError):
    """The server has nothing of that name."""


class _ProblemError(SinterError):
    def __init__(self, problem: Problem, told: str) -> None:
        super().__init__(told)
        self.problem = problem

    @property
    def status(self) -> int:
        """The HTTP status; of a failed job the one that the fault would have had at submission."""
        return self.problem["status"]

    @property
    def code(self) -> str:
        """A stable snake_case word for programs."""
        return self.problem["code"]

    @property
    def detail(self) -> str:
        """What happened and what to do about it, for a person."""
        return self.problem["detail"]

    @property
    def errors(self) -> list[FieldError]:
        """The fields of the request that are wrong, by JSON pointers."""
        return self.problem.get("errors", [])

    @property
    def request_id(self) -> str | None:
        """What the server's log has the request under."""
        return self.problem.get("request_id")


class ApiError(_ProblemError):
    """The server refused a request."""

    def __init__(self, problem: Problem) -> None:
        faults = problem.get("errors", [])
        # Of several each has its line; a single one is told by `detail`.
        detail = problem["detail"] if len(faults) < 2 else f"{len(faults)} faults"
        told = f"{problem['status']} {problem['code']}: {detail}"
        if len(faults) > 1:
            told += "".join(f"\n  {fault['pointer']}: {fault['detail']}" for fault in faults)
        if request := problem.get("request_id"):
            told += f" (request {request})"
        super().__init__(problem, told)


class JobFailed(_ProblemError):
    """A job has failed; `problem` says why, `job` is the job."""

    def __init__(self, job: Job, problem: Problem) -> None:
        super().__init__(problem, f"job {job.id} failed, {problem['code']}: {problem['detail']}")
        self.job = job


class JobCanceled(SinterError):
    """A job that was waited for has been canceled."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.id} was canceled")
        self.job = job


class ConnectionLost(SinterError):
    """The server could not be reached, or did not answer, as often as it was asked. The cause is httpx's error."""


class DigestMismatch(SinterError):
    """A download has other bytes than the server says it has."""
