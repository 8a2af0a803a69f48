"""How much the service bears on this machine. Prints the table of docs/reliability.md.

    cargo build --release --bin sinter
    python3 benches/load.py path/to/sinter

submissions  Jobs over 64 keep-alive connections for ten seconds, each durable when it is answered, with 200 GETs of a job
             a second beside them: submissions a second, and the 50th and 99th percentile of the GETs. First as many as
             the server takes, then 1,100 a second, while a training computes on one of the cores.
queue        The same with 100,000 jobs waiting, and how long a claim takes then: from the end of one job to the start
             of the next, as their events say.
followers    2,000 clients that follow one job's events, coming fifty at a time: memory of the server beside what it had
             before, and how long an event takes to reach the last of them.
uploads      One upload of 1 GiB, hashed and on the disk, beside writing and syncing as many bytes to a file.
idle         Resident memory a while after the start.

The clients run on the same cores as the server. Everything goes to a folder beside this file's checkout (--folder).
"""

import argparse
import asyncio
import datetime
import json
import os
import pathlib
import random
import sqlite3
import statistics
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "service"))


def request(method, path, body=b"", **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def answered(reader):
    """Status and body of an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    return int(head.split(b" ")[1]), await reader.readexactly(length)


async def keep_asking(address, make, until, times, expected, period=0):
    """Sends what `make` gives over one connection until then, once in a period; notes how long each answer took."""
    reader, writer = await asyncio.open_connection(*address)
    due = time.perf_counter() + period * random.random()
    while due < until and time.perf_counter() < until:
        await asyncio.sleep(max(0, due - time.perf_counter()))
        due += period
        start = time.perf_counter()
        writer.write(make())
        status, body = await answered(reader)
        assert status == expected, (status, body)
        times.append(time.perf_counter() - start)
    writer.close()


def percentiles(times):
    return f"{1e3 * np.percentile(times, 50):.1f} ms", f"{1e3 * np.percentile(times, 99):.1f} ms"


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def address_of(server):
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def blocked(server):
    """A model, a data set, and a job that keeps the only worker busy."""
    model, data = server.upload_model(), server.upload_dataset()
    busy = server.submit("train", model, data, {"epochs": 10**4, "weights": "reinitialize"})
    server.wait_for(busy, lambda job: job["status"] == "running")
    body = json.dumps({"kind": "evaluate", "model": model["id"], "dataset": data["id"]}).encode()
    return busy, body


async def submitting(server, body, job, rate=None, seconds=10, submitters=64, readers=4):
    submissions, reads = [], []
    until = time.perf_counter() + seconds
    submit = request("POST", "/v1/jobs", body, Content_Type="application/json")
    look = request("GET", f"/v1/jobs/{job['id']}")
    await asyncio.gather(
        *(keep_asking(address_of(server), lambda: submit, until, submissions, 202, submitters / rate if rate else 0)
          for _ in range(submitters)),
        *(keep_asking(address_of(server), lambda: look, until, reads, 200, readers / 200) for _ in range(readers)))
    return len(submissions) / seconds, submissions, reads


def submit(server, body, busy, what):
    for rate in (None, 1100):
        found, submissions, reads = asyncio.run(submitting(server, body, busy, rate))
        print(f"{what}: {found:.0f} submissions/s ({', '.join(percentiles(submissions))}), "
              f"GET {', '.join(percentiles(reads))}", flush=True)


def fill(server, count):
    """So many jobs more, as copies of the last one, while the server is stopped."""
    server.stop()
    with sqlite3.connect(server.data_dir / "sinter.sqlite") as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(jobs)")]
        row = dict(zip(columns, database.execute("SELECT * FROM jobs WHERE status = 'queued' ORDER BY id DESC LIMIT 1").fetchone()))
        names = ", ".join(columns)
        marks = ", ".join("?" for _ in columns)
        rows = ([{**row, "id": f"ffffffff-0000-7000-8000-{n:012x}"}[name] for name in columns] for n in range(count))
        database.executemany(f"INSERT INTO jobs ({names}) VALUES ({marks})", rows)
    database.close()
    server.start().wait_ready(60)


def claims(server, job, count=30):
    """Milliseconds from the end of a job to the start of the next one."""
    server.post(f"/v1/jobs/{job['id']}/cancel")
    server.wait(job)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        ended = server.get("/v1/jobs", params={"status": "succeeded", "limit": 100}).json()["data"]
        if len(ended) >= count:
            break
        time.sleep(1)
    with sqlite3.connect(server.data_dir / "sinter.sqlite") as database:
        rows = database.execute(
            "SELECT type, at FROM events WHERE type IN ('job_started', 'job_succeeded') ORDER BY id").fetchall()
    times = [(kind, datetime.datetime.fromisoformat(at)) for kind, at in rows]
    return [(after[1] - before[1]).total_seconds() * 1e3 for before, after in zip(times, times[1:])
            if before[0] == "job_succeeded" and after[0] == "job_started"]


async def following(server, job, count):
    """Memory of the server with so many followers, and seconds until the last of them has heard of the end."""
    before = resident(server.pid)
    follow = request("GET", f"/v1/jobs/{job['id']}/events", Accept="text/event-stream")
    ends = []

    async def one():
        reader, writer = await asyncio.open_connection(*address_of(server))
        writer.write(follow)
        await reader.readuntil(b"job_started")
        started.release()
        await reader.readuntil(b"event: job_canceled")
        ends.append(time.perf_counter())
        writer.close()

    started = asyncio.Semaphore(0)
    followers = []
    for number in range(count):
        followers.append(asyncio.create_task(one()))
        # Fifty at a time.
        if number >= 50:
            await started.acquire()
    for _ in range(50):
        await started.acquire()
    # Past the moment when each looks for itself.
    await asyncio.sleep(15)
    memory = resident(server.pid) - before
    start = time.perf_counter()
    await asyncio.to_thread(server.post, f"/v1/jobs/{job['id']}/cancel")
    await asyncio.gather(*followers)
    return memory, max(ends) - start


def uploading(server, folder, size=1 << 30):
    """Megabytes a second: of an upload, and of writing a file."""
    block = os.urandom(1 << 20)
    speeds = {"upload": [], "disk": []}
    for _ in range(3):
        start = time.perf_counter()
        with (folder / "plain").open("wb") as file:
            for _ in range(size >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        speeds["disk"].append(size / 1e6 / (time.perf_counter() - start))
        (folder / "plain").unlink()
        # Nothing that could be parsed: what is timed is the way to the disk, up to the answer that it is no model.
        address = server.post("/v1/models", params={"name": "x"}, headers={
            "Upload-Complete": "?0", "Upload-Length": str(size)}).headers["Location"]
        start = time.perf_counter()
        answer = server.request("PATCH", address, data=(block for _ in range(size >> 20)), timeout=600, headers={
            "Content-Type": "application/partial-upload", "Upload-Offset": "0", "Upload-Complete": "?1"})
        assert answer.status_code == 422, answer.text
        speeds["upload"].append(size / 1e6 / (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in speeds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="SINTER")
    parser.add_argument("--folder", help="where the data folders go")
    parser.add_argument("--queue", type=int, default=100_000)
    parser.add_argument("--followers", type=int, default=2_000)
    parser.add_argument("--parts", nargs="+", default=["idle", "submissions", "queue", "followers", "uploads"])
    given = parser.parse_args()
    os.environ["SINTER_BINARY"] = given.binary
    import resource

    from conftest import Server

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        folder = pathlib.Path(folder)
        server = Server(folder / "server", ("--threads", "1", "--queued-jobs-limit", "0"), env={"SINTER_LOG": "warn"})
        with server:
            server.wait_ready()
            if "idle" in given.parts:
                time.sleep(10)
                print(f"idle: {resident(server.pid):.0f} MiB", flush=True)
            if "uploads" in given.parts:
                speeds = uploading(server, folder)
                print(f"upload {speeds['upload']:.0f} MB/s, disk {speeds['disk']:.0f} MB/s: "
                      f"{speeds['upload'] / speeds['disk']:.2f}", flush=True)
            busy, body = blocked(server)
            if "submissions" in given.parts:
                submit(server, body, busy, "an empty queue")
            if "followers" in given.parts:
                memory, seconds = asyncio.run(following(server, busy, given.followers))
                print(f"{given.followers} followers: {memory:.0f} MiB, the last hears after {seconds:.2f} s", flush=True)
                busy = server.submit("train", json.loads(body)["model"], json.loads(body)["dataset"],
                                     {"epochs": 10**4, "weights": "reinitialize"}, priority=9)
                server.wait_for(busy, lambda job: job["status"] == "running", 120)
            if "queue" in given.parts:
                fill(server, given.queue)
                server.wait_for(busy, lambda job: job["status"] == "running")
                submit(server, body, busy, f"{given.queue} waiting")
                gaps = claims(server, busy)
                print(f"claims: median {statistics.median(gaps):.1f} ms, most {max(gaps):.1f} ms of {len(gaps)}", flush=True)


if __name__ == "__main__":
    main()
