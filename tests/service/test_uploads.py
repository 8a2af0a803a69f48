"""Uploads that are cut, lie, crawl, come in pieces, or come all at once."""

import base64
import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import re
import select
import socket
import threading
import time
import urllib.parse

import pytest

from conftest import DIGITS, DIGITS_CNN, assert_problem, run_sinter
from lifecycle_tools import wait_until

MODEL = DIGITS_CNN.read_bytes()


def repr_digest(content):
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def begin(server, route="/v1/models", name="pieces", content=b"", **headers):
    answer = server.post(route, params={"name": name}, data=content, headers={"Upload-Complete": "?0", **headers})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Upload-Complete"] == "?0"
    return answer.headers["Location"]


def append(server, address, content, offset, complete=False, **headers):
    return server.request("PATCH", address, data=content, headers={
        "Content-Type": "application/partial-upload", "Upload-Offset": str(offset),
        "Upload-Complete": "?1" if complete else "?0", **headers})


def received(server):
    """Bytes of all uploads that the server has read."""
    return int(re.search(r"sinter_upload_bytes_total (\d+)", server.get("/metrics").text)[1])


# In pieces.


@pytest.mark.parametrize(("route", "path"), [("/v1/models", DIGITS_CNN), ("/v1/datasets", DIGITS)])
def test_an_upload_in_pieces_is_the_same_as_one_in_one(server, route, path):
    content = path.read_bytes()
    whole = server.post(route, params={"name": "whole"}, data=content).json()
    address = begin(server, route, content=content[:1000], **{"Upload-Length": str(len(content))})
    third = len(content) // 3
    assert append(server, address, content[1000:third], 1000).status_code == 204
    told = server.request("HEAD", address)
    assert told.status_code == 200 and told.headers["Upload-Offset"] == str(third)
    assert told.headers["Cache-Control"] == "no-store" and told.content == b""
    assert server.get(address).json() == {"id": address.split("/")[-1], "target": route.split("/")[-1], "offset": third,
                                          "length": len(content)}
    done = append(server, address, content[third:], third, True, **{"Repr-Digest": repr_digest(content)})
    assert done.status_code == 201, done.text
    made = done.json()
    assert done.headers["Location"] == f"{route}/{made['id']}"
    for volatile in ("id", "name", "created_at"):
        del made[volatile], whole[volatile]
    assert made == whole
    assert_problem(server.get(address), 404, "upload_not_found")


def test_an_upload_in_pieces_survives_the_end_of_the_server(start_server):
    server = start_server()
    address = begin(server, content=MODEL[:5000])
    server.kill()
    server.start().wait_ready()
    offset = int(server.request("HEAD", address).headers["Upload-Offset"])
    assert offset == 5000
    done = append(server, address, MODEL[offset:], offset, True)
    assert done.status_code == 201, done.text
    assert server.model_content(done.json()) == MODEL


def test_what_arrived_before_a_cut_is_kept(server):
    address, before = begin(server), received(server)
    connection = raw(server, "PATCH", address, {
        "Content-Type": "application/partial-upload", "Upload-Offset": "0", "Upload-Complete": "?1",
        "Content-Length": str(len(MODEL))})
    connection.sendall(MODEL[:7000])
    wait_until(lambda: received(server) == before + 7000, what="7000 bytes")
    connection.close()
    deadline = time.monotonic() + 60
    while server.request("HEAD", address).headers["Upload-Offset"] != "7000":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # The server may still be at the end of the piece that was cut.
    while (done := append(server, address, MODEL[7000:], 7000, True)).status_code == 409:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert done.status_code == 201, done.text


def test_pieces_that_do_not_fit_are_refused(server):
    address = begin(server, content=MODEL[:100], **{"Upload-Length": str(len(MODEL))})
    answer = append(server, address, b"x", 99)
    assert_problem(answer, 409, "upload_offset_mismatch", says="100")
    assert answer.headers["Upload-Offset"] == "100"
    headers = {"Upload-Complete": "?0"}
    assert_problem(server.request("PATCH", address, data=b"x", headers={**headers, "Upload-Offset": "100"}), 415)
    piece = {**headers, "Content-Type": "application/partial-upload"}
    assert_problem(server.request("PATCH", address, data=b"x", headers=piece), 400, "upload_offset_required")
    assert_problem(append(server, address, b"x", "many"), 400, "invalid_header")
    answer = server.request("PATCH", address, data=b"x", headers={
        **piece, "Upload-Offset": "100", "Upload-Complete": "yes"})
    assert_problem(answer, 400, "invalid_header")
    assert_problem(append(server, address, b"x", 100, **{"Upload-Length": "5"}), 400, "upload_length_mismatch")
    assert_problem(append(server, address, MODEL, 100), 413, "body_too_large")
    assert_problem(append(server, address, b"x", 100, True), 400, "upload_length_mismatch")
    assert server.request("HEAD", address).headers["Upload-Offset"] == "101"
    assert server.delete(address).status_code == 204
    assert_problem(server.delete(address), 404, "upload_not_found")
    form = server.post("/v1/models", params={"name": "x"}, files={"file": b"x"}, headers=headers)
    assert_problem(form, 415, "unsupported_media_type")
    assert_problem(server.post("/v1/models", headers=headers), 400, "name_required")


def test_two_that_append_at_once_do_not_mix(server):
    address, before = begin(server), received(server)
    first = raw(server, "PATCH", address, {
        "Content-Type": "application/partial-upload", "Upload-Offset": "0", "Content-Length": "10"})
    first.sendall(b"01234")
    wait_until(lambda: received(server) == before + 5, what="5 bytes")
    assert_problem(append(server, address, b"x", 0), 409, "upload_in_use")
    first.sendall(b"56789")
    assert b" 204 " in first.recv(1000)
    first.close()
    assert server.request("HEAD", address).headers["Upload-Offset"] == "10"


def test_a_whole_upload_that_is_no_model_is_refused_and_gone(server):
    address = begin(server, content=b"no model")
    assert_problem(append(server, address, b" at all", 8, True), 422, "invalid_model")
    assert_problem(server.get(address), 404, "upload_not_found")
    address = begin(server, content=MODEL)
    wrong = append(server, address, b"", len(MODEL), True, **{"Repr-Digest": repr_digest(b"other")})
    assert_problem(wrong, 422, "digest_mismatch")


def test_a_client_that_goes_away_at_the_end_can_not_change_what_was_stored(start_server):
    server = start_server()
    for turn in range(10):
        address = begin(server, content=MODEL, name=f"m{turn}")
        connection = raw(server, "PATCH", address, {
            "Content-Type": "application/partial-upload", "Upload-Offset": str(len(MODEL)), "Upload-Complete": "?1",
            "Content-Length": "0"})
        time.sleep(0.002 * turn)
        connection.close()
        append(server, address, b"more", len(MODEL))
    deadline = time.monotonic() + 60
    while not (models := server.all_rows("/v1/models")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for model in models:
        assert server.model_content(model) == MODEL
    server.stop()
    assert run_sinter("check", "--data-dir", server.data_dir).returncode == 0


def test_an_upload_without_a_length_is_within_the_quota_and_the_disk_too(start_server):
    server = start_server("--project-bytes-limit", str(20 << 20))
    block = b"x" * (1 << 20)
    address = begin(server)
    pieces = (block for _ in range(60))
    assert_problem(append(server, address, pieces, 0), 403, "quota_exceeded")
    assert int(server.request("HEAD", address).headers["Upload-Offset"]) < 40 << 20
    assert_problem(server.post("/v1/models", params={"name": "x"}, data=(block for _ in range(60))), 403, "quota_exceeded")
    assert server.delete(address).status_code == 204
    # One that is finished is not counted twice.
    address = begin(server, content=MODEL)
    assert append(server, address, b"", len(MODEL), True).status_code == 201


# Digests.


def test_a_digest_that_is_right_is_taken_and_one_that_is_not_refused(start_server):
    server = start_server()
    taken = server.post_model(MODEL, headers={"Repr-Digest": f"sha-512=:AA==:, {repr_digest(MODEL)}"})
    assert taken.status_code == 201
    before = server.get("/v1/models").json()["data"][0]["id"]
    assert_problem(server.post_model(MODEL, headers={"Repr-Digest": repr_digest(b"x")}), 422, "digest_mismatch")
    for value in ("sha-256=abc", "sha-256=:AA==:", "md5=:AA==:", "x"):
        assert_problem(server.post_model(MODEL, headers={"Repr-Digest": value}), 400, "invalid_digest")
    form = server.post("/v1/models", params={"name": "x"}, files={"file": MODEL},
                       headers={"Repr-Digest": repr_digest(MODEL)})
    assert_problem(form, 400, "invalid_digest")
    assert server.get("/v1/models").json()["data"][0]["id"] == before


# Connections.


def raw(server, method, path, headers):
    """A connection on which the head of a request was sent."""
    address = urllib.parse.urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {address.netloc}", *(f"{k}: {v}" for k, v in headers.items())]
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n")
    return connection


def staged(server):
    found = os.walk(server.data_dir / "staging")
    return [pathlib.Path(folder, name) for folder, _, names in found for name in names]


def size_of(path):
    """0 for one that has just gone."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_a_cut_upload_leaves_nothing(start_server):
    server = start_server()
    for size in (0, 1, 5000):
        connection = raw(server, "POST", "/v1/models?name=cut", {"Content-Length": str(len(MODEL))})
        connection.sendall(MODEL[:size])
        time.sleep(0.2)
        connection.close()
    deadline = time.monotonic() + 60
    while staged(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert staged(server) == []
    assert server.get("/v1/models").json()["data"] == []


def test_a_length_that_lies_is_believed_no_further_than_it_holds(start_server):
    server = start_server("--max-upload-bytes", "1000000")
    announced = raw(server, "POST", "/v1/models?name=x", {"Content-Length": str(10**15)})
    assert b" 413 " in announced.recv(2000)
    # Two lengths that differ are an attack on what stands in front of a server.
    double = raw(server, "POST", "/v1/models?name=x", {"Content-Length": "5", "content-length": "50"})
    double.sendall(b"hello")
    assert b" 400 " in double.recv(2000)
    both = raw(server, "POST", "/v1/models?name=x", {"Content-Length": "5", "Transfer-Encoding": "chunked"})
    both.sendall(b"0\r\n\r\n")
    assert b" 201 " not in both.recv(2000)
    for connection in (announced, double, both):
        connection.close()
    assert server.is_healthy()
    assert staged(server) == []


def test_a_client_that_says_nothing_is_given_up(start_server):
    server = start_server("--client-timeout-seconds", "3")
    address = urllib.parse.urlsplit(server.url)
    silent = socket.create_connection((address.hostname, address.port), timeout=60)
    slow_head = socket.create_connection((address.hostname, address.port), timeout=60)
    slow_head.sendall(b"POST /v1/models?name=x HTTP/1.1\r\nHost: x\r\n")
    slow_body = raw(server, "POST", "/v1/models?name=x", {"Content-Length": "1000"})
    slow_body.sendall(b"x")
    slow_json = raw(server, "POST", "/v1/jobs", {"Content-Length": "1000", "Content-Type": "application/json"})
    slow_json.sendall(b"{")
    for connection in (slow_body, slow_json):
        answer = connection.recv(4000)
        assert b" 408 " in answer and b"request_timeout" in answer, answer
    for connection in (silent, slow_head):
        # The end, perhaps after a 408.
        while connection.recv(4000):
            pass
    assert staged(server) == []
    # One that is slow but goes on is served.
    crawling = raw(server, "POST", "/v1/models?name=crawl", {"Content-Length": str(len(MODEL))})
    for start in range(0, len(MODEL), len(MODEL) // 8 + 1):
        crawling.sendall(MODEL[start:start + len(MODEL) // 8 + 1])
        time.sleep(0.5)
    assert b" 201 " in crawling.recv(4000)


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS")


def test_a_thousand_uploads_at_once_need_less_than_200_mib(start_server):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = start_server("--client-timeout-seconds", "180")
    before = resident(server.pid)
    piece, peak, stop = b"x" * 65536, [before], threading.Event()

    def watch():
        while not stop.is_set():
            peak[0] = max(peak[0], resident(server.pid))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    connections = [raw(server, "POST", f"/v1/models?name=u{n}", {"Content-Length": str(16 * len(piece))})
                   for n in range(1000)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(4):
            list(pool.map(lambda connection: connection.sendall(piece), connections))
    assert server.is_healthy()
    deadline = time.monotonic() + 120
    while sum(size_of(path) for path in staged(server)) < 1000 * 3 * len(piece):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for connection in connections:
        connection.close()
    stop.set()
    watcher.join()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert peak[0] - before < 200 << 20, f"{(peak[0] - before) >> 20} MiB"
    deadline = time.monotonic() + 60
    while staged(server) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert staged(server) == []


# What is in an archive.


def test_links_and_ways_out_of_an_archive_lead_nowhere(server, tmp_path):
    import io
    import tarfile

    import numpy
    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(numpy.zeros((8, 8), numpy.uint8)).save(picture, "png")
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture.getvalue())
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for n in range(4):
            entry = tarfile.TarInfo(f"{'ab'[n % 2]}/{n}.png")
            entry.size = len(picture.getvalue())
            archive.addfile(entry, io.BytesIO(picture.getvalue()))
        for name, kind in (("a/link.png", tarfile.SYMTYPE), ("a/hard.png", tarfile.LNKTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, str(secret)
            archive.addfile(entry)
        entry = tarfile.TarInfo("../../../escape/x.png")
        entry.size = len(picture.getvalue())
        archive.addfile(entry, io.BytesIO(picture.getvalue()))
    answer = server.post_dataset(buffer.getvalue(), "links")
    # Whatever becomes of it, nothing is read or written outside.
    assert answer.status_code in (201, 422), answer.text
    if answer.status_code == 201:
        assert answer.json()["splits"]["train"] in (4, 5)
    assert "escape" not in [name for _, folders, files in os.walk(server.data_dir.parent) for name in folders + files]
    assert server.is_healthy()


def test_a_reader_that_reads_nothing_is_cut(start_server):
    server = start_server("--client-timeout-seconds", "2")
    model = server.upload_model(name="x" * 150)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((host, int(port)))
        # Answers to hundreds of requests fill what the connection holds.
        request = f"GET /v1/models/{model['id']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        silent.settimeout(1)

        def cut():
            try:
                silent.sendall(request)
            except TimeoutError:
                return False
            except OSError:
                return True
            return False

        # On a machine that is busy with other things the end may come meanwhile.
        with contextlib.suppress(OSError):
            for _ in range(20_000):
                silent.sendall(request)
        wait_until(cut, what="the end of the connection")
    assert server.is_healthy()


def test_connections_wait_for_a_place(start_server):
    server = start_server("--connections-limit", "3", "--client-timeout-seconds", "20")
    host, port = server.url.removeprefix("http://").split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(3)]
    for each in held:
        each.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert each.recv(100).startswith(b"HTTP/1.1 200")
    with socket.create_connection((host, int(port))) as waiting:
        waiting.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(100)
        # As many wait as there are places; one of these is a connection too many, and is sent away.
        others = [socket.create_connection((host, int(port))) for _ in range(3)]
        sent_away, _, _ = select.select(others, [], [], 10)
        assert len(sent_away) == 1
        with contextlib.suppress(ConnectionResetError):
            assert sent_away[0].recv(100) == b""
        assert select.select(others, [], [], 0.3)[0] == sent_away
        for each in others:
            each.close()
        held.pop().close()
        waiting.settimeout(10)
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
    for each in held:
        each.close()
