"""Hours of everything at once: uploads, jobs, cancellations, kills of jobs' processes, retries, downloads, deletions and
followers, and whether memory and open files stay where they were. Prints docs/reliability.md's lines.

    python3 benches/soak.py path/to/sinter --minutes 60

Memory and open files of the server are noted every ten seconds; what is compared are the medians of the second and of the
last tenth of the time. At the end `sinter check` reads the whole data folder.
"""

import argparse
import os
import pathlib
import random
import signal
import statistics
import sys
import tempfile
import threading
import time

import requests

ROOT = pathlib.Path(__file__).resolve().parents[1]
DIGITS_CNN = ROOT / "examples" / "models" / "digits_cnn.onnx"
sys.path.insert(0, str(ROOT / "tests" / "service"))


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Soak:
    def __init__(self, server, until):
        self.server, self.until, self.counts = server, until, {}
        self.lock = threading.Lock()
        self.inputs = server.upload_model(), server.upload_dataset()

    def note(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def go_on(self, work, seed):
        chance = random.Random(seed)
        while time.monotonic() < self.until:
            try:
                work(chance)
            except (requests.RequestException, AssertionError, TimeoutError) as error:
                self.note(f"error {type(error).__name__}")
                print(f"{work.__name__}: {error}", flush=True)

    def jobs(self, chance):
        epochs = chance.choice([1, 1, 2, 5, 2000])
        model, data = self.inputs
        job = self.server.submit("train", model, data, {"epochs": epochs, "weights": "reinitialize"},
                                 data={"preprocess": {"scale": 0.0625}}, max_attempts=20)
        self.note("jobs")
        if epochs == 2000:
            time.sleep(chance.uniform(0, 4))
            assert self.server.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
            self.note("cancellations")
        ended = self.server.wait(job, 600)
        expected = "canceled" if epochs == 2000 else "succeeded"
        if ended["status"] == "failed" and ended["error"]["code"] == "worker_died":
            assert ended["attempt"] == ended["max_attempts"]
            self.note("jobs of which every attempt was killed")
            expected = "failed"
        assert ended["status"] == expected, (ended["status"], ended["error"])
        if ended["status"] == "succeeded":
            for artifact in self.server.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]:
                assert len(self.server.get(artifact["url"]).content) == artifact["size_bytes"]
                self.note("downloads")
        if chance.random() < 0.7:
            assert self.server.delete(f"/v1/jobs/{job['id']}").status_code == 204
            made = ended["result"] and ended["result"]["model"]
            if made:
                assert self.server.delete(f"/v1/models/{made}").status_code == 204
            self.note("deletions")

    def uploads(self, chance):
        answer = self.server.post_model(DIGITS_CNN, "soak")
        if answer.status_code == 422 and answer.json()["code"] == "unreadable_upload":
            # Its reader was the process that was killed.
            self.note("uploads whose reader was killed")
            return
        assert answer.status_code == 201, answer.text
        model = answer.json()
        self.note("uploads")
        assert self.server.get(f"/v1/models/{model['id']}/layers").status_code in (200, 500)
        assert self.server.delete(f"/v1/models/{model['id']}").status_code == 204
        assert self.server.post_model(chance.randbytes(1000)).status_code == 422
        time.sleep(chance.uniform(0, 1))

    def kills(self, chance):
        from lifecycle_tools import job_children, send

        time.sleep(chance.uniform(4, 12))
        children = job_children(self.server)
        if children:
            send(chance.choice(children), signal.SIGKILL)
            self.note("kills")

    def followers(self, chance):
        rows = self.server.get("/v1/jobs", params={"limit": 1}).json()["data"]
        if not rows:
            return
        with self.server.get(f"/v1/jobs/{rows[0]['id']}/events", headers={"Accept": "text/event-stream"},
                             stream=True, timeout=30) as answer:
            for number, _ in enumerate(answer.iter_lines()):
                if number > 30 or chance.random() < 0.02:
                    break
        self.note("followers")
        time.sleep(chance.uniform(0, 0.3))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="SINTER")
    parser.add_argument("--minutes", type=float, default=60)
    given = parser.parse_args()
    os.environ["SINTER_BINARY"] = given.binary
    from conftest import Server, run_sinter

    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder, ("--workers", "2", "--threads", "1"), env={"SINTER_LOG": "warn"})
        with server:
            server.wait_ready()
            soak = Soak(server, time.monotonic() + 60 * given.minutes)
            works = [soak.jobs, soak.jobs, soak.jobs, soak.uploads, soak.kills, soak.followers]
            threads = [threading.Thread(target=soak.go_on, args=(work, n)) for n, work in enumerate(works)]
            for thread in threads:
                thread.start()
            seen = []
            while any(thread.is_alive() for thread in threads):
                seen.append((resident(server.pid), open_files(server.pid)))
                time.sleep(min(10, given.minutes))
        found = run_sinter("check", "--data-dir", server.data_dir, timeout=600)
    tenth = max(1, len(seen) // 10)
    early, late = seen[tenth:2 * tenth], seen[-tenth:]
    for what, place, unit in (("memory", 0, " MiB"), ("open files", 1, "")):
        before, after = (statistics.median(row[place] for row in part) for part in (early, late))
        print(f"{what}: {before:.0f}{unit}, at the end {after:.0f}{unit}")
    print(", ".join(f"{count} {what}" for what, count in sorted(soak.counts.items())))
    print(found.stdout.strip())
    sys.exit(found.returncode or any(what.startswith("error") for what in soak.counts))


if __name__ == "__main__":
    main()
