"""Files on their way to the server and back, which go on after a cut and are verified."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import secrets
import tarfile
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import httpx
from tqdm.auto import tqdm

from ._connection import READING_TIMEOUT, Connection, is_passing, lost, may_pass, problem_of, retry_after
from .errors import ApiError, DigestMismatch

CHUNK_BYTES = 256 << 10

PAGE_ROWS = 100

CUT = {"upload_offset_mismatch", "request_timeout", "broken_body"}
"""What the server says when less of a piece arrived than was sent."""


def bytes_bar(total: int, name: str, progress: bool) -> tqdm[Any]:
    return tqdm(total=total, unit="B", unit_scale=True, unit_divisor=1024, desc=name, disable=not progress)


def sha256_of(file: IO[bytes]) -> bytes:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()


class WatchedFile:
    """A file that moves a bar as it is read."""

    def __init__(self, file: IO[bytes], bar: tqdm[Any]) -> None:
        self.file, self.bar = file, bar

    def read(self, size: int = -1) -> bytes:
        chunk = self.file.read(size)
        self.bar.update(len(chunk))
        return chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = self.file.seek(offset, whence)
        move(self.bar, position)
        return position

    def tell(self) -> int:
        return self.file.tell()

    def fileno(self) -> int:
        return self.file.fileno()

    def __iter__(self) -> Iterator[bytes]:
        while chunk := self.read(CHUNK_BYTES):
            yield chunk


def move(bar: tqdm[Any], position: int) -> None:
    bar.n = position
    bar.refresh()


# To the server.


def upload(
    connection: Connection,
    route: str,
    path: pathlib.Path,
    beside: Iterable[pathlib.Path],
    query: Mapping[str, str],
    tags: Mapping[str, str],
    progress: bool,
) -> Any:
    """Sends a file and returns the JSON of what became of it."""
    beside = list(beside)
    if tags or beside:
        return upload_form(connection, route, path, beside, query, tags, progress)
    return upload_in_pieces(connection, route, path, query, progress)


def packed(folder: pathlib.Path, stack: contextlib.ExitStack) -> pathlib.Path:
    """All that is in a folder as one file, which goes when the stack is closed."""
    path = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / f"{folder.name}.tar"
    with tarfile.open(path, "w", dereference=True) as archive:
        for each in sorted(folder.iterdir()):
            archive.add(each, each.name)
    return path


def upload_in_pieces(
    connection: Connection, route: str, path: pathlib.Path, query: Mapping[str, str], progress: bool
) -> Any:
    """An upload that is begun empty and then gets the file, from where it was cut as often as that happens."""
    with path.open("rb") as file, bytes_bar(path.stat().st_size, path.name, progress) as bar:
        size = os.fstat(file.fileno()).st_size
        digest = sha256_of(file)
        address, offset = begin(connection, route, query, size), 0
        pauses = connection.pauses()
        while True:
            fault: Exception
            wait: float | None = None
            file.seek(offset)
            move(bar, offset)
            try:
                response = connection.http.patch(
                    address,
                    content=iter(WatchedFile(file, bar)),
                    headers={
                        "Content-Type": "application/partial-upload",
                        "Content-Length": str(size - offset),
                        "Upload-Offset": str(offset),
                        "Upload-Complete": "?1",
                        "Repr-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
                    },
                    timeout=httpx.Timeout(connection.timeout, read=READING_TIMEOUT),
                )
            except httpx.TransportError as error:
                fault = lost(error)
                if not may_pass(error, repeat=True):
                    raise fault from error
            else:
                if response.is_success:
                    return response.json()
                refusal = fault = ApiError(problem_of(response))
                gone = refusal.code == "upload_not_found" and pauses.failures > 0
                if not (gone or refusal.code in CUT or is_passing(response, refusal, repeat=True)):
                    raise refusal
                wait = retry_after(response)
            pauses.wait(fault, wait)
            arrived = offset_of(connection, address)
            if arrived is None:
                # It became whole, and the answer was lost; or it was refused or has expired, and a second time tells.
                if made := find_made(connection, route, address, query["name"], digest):
                    move(bar, size)
                    return made
                address, arrived = begin(connection, route, query, size), 0
            elif arrived > offset:
                pauses.progress()
            offset = arrived


def begin(connection: Connection, route: str, query: Mapping[str, str], size: int) -> str:
    """Begins an upload and returns its address."""
    headers = {"Upload-Complete": "?0", "Upload-Length": str(size)}
    begun = connection.request("POST", route, params=query, headers=headers)
    return begun.headers["Location"]


def offset_of(connection: Connection, address: str) -> int | None:
    """Bytes of an upload that arrived, or None when it is no more."""
    try:
        offset: int = connection.request("GET", address).json()["offset"]
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    return offset


def find_made(connection: Connection, route: str, address: str, name: str, digest: bytes) -> Any:
    """What an upload became. Ids grow with time, so it is newer than the upload."""
    upload_id = address.rsplit("/", 1)[1]
    for row in pages(connection, route):
        if row["id"] < upload_id:
            return None
        if row["digest"] == f"sha256:{digest.hex()}" and row["name"] == name:
            return row
    return None


def upload_form(
    connection: Connection,
    route: str,
    path: pathlib.Path,
    beside: list[pathlib.Path],
    query: Mapping[str, str],
    tags: Mapping[str, str],
    progress: bool,
) -> Any:
    """Tags, and several files, go as one form; cut, it is sent again whole, and what it made is made once."""
    with contextlib.ExitStack() as stack:
        files: list[tuple[str, Any]] = []
        for each in [path, *beside]:
            file = stack.enter_context(each.open("rb"))
            size = os.fstat(file.fileno()).st_size
            bar = stack.enter_context(bytes_bar(size, each.name, progress))
            # A model names its external data by paths from its own folder.
            name = each.relative_to(path.parent).as_posix() if each.is_relative_to(path.parent) else each.name
            files.append(("file", (name, WatchedFile(file, bar), "application/octet-stream")))
        answer = connection.request(
            "POST",
            route,
            params=query,
            data={"tags": json.dumps(dict(tags))},
            files=files,
            headers={"Idempotency-Key": str(uuid.uuid4())},
            timeout=httpx.Timeout(connection.timeout, read=READING_TIMEOUT),
        )
        return answer.json()


# Back.


def download(connection: Connection, address: str, path: pathlib.Path, progress: bool) -> pathlib.Path:
    """Fetches a file into one of another name beside the path, verifies it, and gives it its name."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file, bytes_bar(0, path.name, progress) as bar:
            expected, found = fetch(connection, address, file, bar)
            file.flush()
            os.fsync(file.fileno())
        if found != expected:
            raise DigestMismatch(f"{address} has the sha-256 {expected}, and what came has {found}")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def fetch(connection: Connection, address: str, file: IO[bytes], bar: tqdm[Any]) -> tuple[str, str]:
    """Writes what is at the address to the file; the digests in hex that it should have and has."""
    pauses = connection.pauses()
    digest, received, etag = hashlib.sha256(), 0, ""
    while True:
        headers = {"Range": f"bytes={received}-", "If-Range": etag} if received else {}
        try:
            # Compressed on its way, it would have other offsets.
            with connection.stream(address, headers={**headers, "Accept-Encoding": "identity"}) as response:
                if response.status_code != 206 and received:
                    # The file is another one now.
                    file.seek(0)
                    file.truncate()
                    digest, received = hashlib.sha256(), 0
                etag = response.headers["ETag"]
                bar.total = received + int(response.headers["Content-Length"])
                move(bar, received)
                # Without a size: httpx would keep what is less to itself, and lose it with the connection.
                for chunk in response.iter_raw():
                    file.write(chunk)
                    digest.update(chunk)
                    received += len(chunk)
                    bar.update(len(chunk))
                    pauses.progress()
                return etag.strip('"'), digest.hexdigest()
        except httpx.TransportError as error:
            fault = lost(error)
            if not may_pass(error, repeat=True):
                raise fault from error
            pauses.wait(fault)


def pages(connection: Connection, route: str, **query: Any) -> Iterator[Any]:
    """All rows of a list, page by page."""
    query["limit"] = PAGE_ROWS
    while True:
        page = connection.request("GET", route, params=query).json()
        yield from page["data"]
        if (cursor := page["next_cursor"]) is None:
            return
        query["cursor"] = cursor
