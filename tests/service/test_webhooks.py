"""Webhooks: what receivers get, verified by the library of Standard Webhooks, and where messages may not go."""

import contextlib
import http.server
import json
import socket
import ssl
import threading
import time

import pytest
from standardwebhooks import Webhook

from conftest import DIGITS, DIGITS_CNN, Server, assert_problem
from lifecycle_tools import ENDLESS, TRAINING, event_types, submit_training, wait_until
from test_access import bearer, new_key


class Receiver:
    """An HTTP server that keeps what it is sent, and answers as `answer(number)` says."""

    def __init__(self, answer=lambda number: 204, tls=None, port=0):
        self.received, self.answer = [], answer
        # Requests that are answered now, and how many there ever were at once.
        self.open, self.most, self.lock = 0, 0, threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append((dict(self.headers), body, self.path, time.monotonic()))
                with receiver.lock:
                    receiver.open += 1
                    receiver.most = max(receiver.most, receiver.open)
                answer = receiver.answer(len(receiver.received))
                with receiver.lock:
                    receiver.open -= 1
                status, headers = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://localhost:{self.server.server_port}/hook?from=sinter"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def wait(self, count, timeout=60):
        wait_until(lambda: len(self.received) >= count, timeout, f"{count} messages")
        return self.received


@contextlib.contextmanager
def receiving(*arguments, **named):
    receiver = Receiver(*arguments, **named)
    try:
        yield receiver
    finally:
        receiver.stop()


def lowered(headers):
    return {name.lower(): value for name, value in headers.items()}


def secret_of(server, url):
    return next(row["secret"] for row in server.get("/v1/webhooks").json()["data"] if row["url"] == url)


def deliveries(server, job):
    return server.get(f"/v1/jobs/{job['id']}/deliveries").json()["data"]


@pytest.fixture
def open_server(start_server):
    """A server that may tell this machine."""
    def start(*flags, **options):
        return start_server("--webhooks-private", "true", *flags, **options)

    return start


def test_a_receiver_gets_signed_messages_of_the_events_it_asked_for(open_server):
    server = open_server()
    inputs = server.upload_model(), server.upload_dataset()
    with receiving() as receiver:
        made = server.post("/v1/webhooks", json={"url": receiver.url})
        assert made.status_code == 201 and made.json()["secret"].startswith("whsec_")
        again = server.post("/v1/webhooks", json={"url": receiver.url})
        assert again.status_code == 200 and again.json() == made.json()
        job = submit_training(server, inputs, tags={"team": "vision"}, webhook={
            "url": receiver.url, "events": ["job.started", "job.finished"]})
        assert job["request"]["webhook"]["events"] == ["job.started", "job.finished"]
        ended = server.wait(job)
        messages = receiver.wait(2)
        wait_until(lambda: all(row["status"] == "delivered" for row in deliveries(server, job)), what="both delivered")
    verifier = Webhook(made.json()["secret"])
    said = [verifier.verify(body, lowered(headers)) for headers, body, _, _ in messages]
    assert [message["type"] for message in said] == ["job.started", "job.finished"]
    assert said[0]["data"]["status"] == "running" and said[0]["data"]["attempt"] == 1
    data = said[1]["data"]
    assert data["id"] == job["id"] and data["status"] == "succeeded" and data["error"] is None
    assert data["model"] == ended["result"]["model"] and data["tags"] == {"team": "vision"}
    assert server.get(data["url"]).json()["id"] == job["id"]
    assert all(path == "/hook?from=sinter" for _, _, path, _ in messages)
    rows = deliveries(server, job)
    assert [row["event"] for row in rows] == ["job.started", "job.finished"]
    assert {headers["webhook-id"] for headers in (lowered(each[0]) for each in messages)} == {row["id"] for row in rows}
    assert all(row["attempts"] == 1 and row["response_status"] == 204 for row in rows)
    # Changed on its way, it does not verify.
    headers, body, _, _ = messages[1]
    with pytest.raises(Exception):
        verifier.verify(body.replace(b"succeeded", b"failed"), lowered(headers))


def test_failed_and_canceled_jobs_tell_so_and_others_nothing(open_server):
    server = open_server()
    inputs = server.upload_model(), server.upload_dataset()
    with receiving() as receiver:
        hook = {"url": receiver.url, "events": ["job.failed", "job.canceled"]}
        server.wait(submit_training(server, inputs, webhook=hook))
        running = submit_training(server, inputs, ENDLESS, webhook=hook)
        server.wait_for(running, lambda job: job["status"] == "running")
        waiting = submit_training(server, inputs, webhook=hook)
        for job in (waiting, running):
            assert server.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
        late = submit_training(server, inputs, ENDLESS, webhook=hook, timeout_seconds=1)
        server.wait(late)
        messages = receiver.wait(3)
        said = [json.loads(body) for _, body, _, _ in messages]
    found = {message["data"]["id"]: message for message in said}
    assert {id: message["type"] for id, message in found.items()} == {
        waiting["id"]: "job.canceled", running["id"]: "job.canceled", late["id"]: "job.failed"}
    assert found[late["id"]]["data"]["error"]["code"] == "timed_out"


def test_a_receiver_that_is_down_gets_every_message_once_it_is_up(open_server):
    server = open_server("--webhook-retry-seconds", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1")
    inputs = server.upload_model(), server.upload_dataset()
    with receiving(lambda number: 503 if number <= 2 else 200) as receiver:
        job = submit_training(server, inputs, webhook={"url": receiver.url})
        server.wait(job)
        messages = receiver.wait(3)
        wait_until(lambda: deliveries(server, job)[0]["status"] == "delivered", what="the delivery")
        row = deliveries(server, job)[0]
    assert row["attempts"] == 3 and row["last_error"] is None and row["delivered_at"]
    assert len({lowered(headers)["webhook-id"] for headers, *_ in messages}) == 1
    assert messages[1][3] - messages[0][3] > 0.85
    # Nobody listens, and nobody else gets the port; the server ends meanwhile.
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    job = submit_training(server, inputs, webhook={"url": url})
    server.wait(job)
    wait_until(lambda: deliveries(server, job)[0]["attempts"] >= 1, what="a try")
    server.kill()
    server.start().wait_ready()
    taken.close()
    with receiving(port=port) as receiver:
        messages = receiver.wait(1)
        wait_until(lambda: deliveries(server, job)[0]["status"] == "delivered", what="the delivery")
    assert json.loads(messages[0][1])["data"]["id"] == job["id"]


def test_a_receiver_that_says_no_is_given_up_and_asked_again_on_demand(open_server):
    server = open_server("--webhook-retry-seconds", "0,0")
    inputs = server.upload_model(), server.upload_dataset()
    answers = {"status": 500}
    with receiving(lambda number: answers["status"]) as receiver:
        job = submit_training(server, inputs, webhook={"url": receiver.url})
        server.wait(job)
        wait_until(lambda: deliveries(server, job)[0]["status"] == "failed", what="the end of its tries")
        row = deliveries(server, job)[0]
        assert row["attempts"] == 3 and row["response_status"] == 500 and "500" in row["last_error"]
        assert "webhook_failed" in event_types(server, job)
        answers["status"] = 200
        assert server.post(f"/v1/jobs/{job['id']}/deliveries/{row['id']}/resend").status_code == 202
        wait_until(lambda: deliveries(server, job)[0]["status"] == "delivered", what="the resent message")
        assert_problem(server.post(f"/v1/jobs/{job['id']}/deliveries/msg_0/resend"), 404, "delivery_not_found")
        answers["status"] = 410
        gone = submit_training(server, inputs, webhook={"url": receiver.url})
        server.wait(gone)
        wait_until(lambda: deliveries(server, gone)[0]["status"] == "failed", what="the end")
        assert deliveries(server, gone)[0]["attempts"] == 1


def test_redirects_are_not_followed(open_server):
    server = open_server("--webhook-retry-seconds", "0")
    inputs = server.upload_model(), server.upload_dataset()
    with receiving() as target, receiving(lambda number: (307, {"Location": target.url})) as receiver:
        job = submit_training(server, inputs, webhook={"url": receiver.url})
        server.wait(job)
        wait_until(lambda: deliveries(server, job)[0]["status"] == "failed", what="the end")
        assert "redirect" in deliveries(server, job)[0]["last_error"]
        assert len(receiver.received) == 2 and not target.received


def test_a_slow_receiver_keeps_no_other_waiting(open_server):
    server = open_server()
    inputs = server.upload_model(), server.upload_dataset()
    hold = threading.Event()
    with receiving(lambda number: hold.wait(10) and 200 or 200) as slow, receiving() as quick:
        jobs = [submit_training(server, inputs, webhook={"url": url}) for url in (slow.url, slow.url, quick.url)]
        for job in jobs:
            server.wait(job)
        quick.wait(1, timeout=8)
        hold.set()
        slow.wait(2)
        # One at a time to each URL.
        assert slow.most == 1


def test_many_slow_receivers_of_a_project_keep_no_other_project_waiting(open_server):
    server = open_server()
    server.key = new_key(server, role="admin")
    mine, theirs = bearer(new_key(server)), bearer(new_key(server, project="other"))
    hold = threading.Event()
    with receiving(lambda number: hold.wait(10) and 200 or 200) as slow, receiving() as quick:
        def job_of(headers, url):
            model = server.post_model(DIGITS_CNN, headers=headers).json()
            data = server.post_dataset(DIGITS, headers=headers).json()
            answer = server.post("/v1/jobs", headers=headers, json={
                "kind": "evaluate", "model": model["id"], "dataset": data["id"], "webhook": {"url": url}})
            assert answer.status_code == 202, answer.text
            return answer.json()

        jobs = [job_of(mine, f"{slow.url}&n={number}") for number in range(6)] + [job_of(theirs, quick.url)]
        for job in jobs:
            server.wait(job)
        quick.wait(1, timeout=8)
        hold.set()
        slow.wait(6)
        assert slow.most <= 4


def test_a_message_that_is_asked_for_again_while_it_is_sent_is_sent_again(open_server):
    server = open_server()
    inputs = server.upload_model(), server.upload_dataset()
    hold = threading.Event()
    with receiving(lambda number: hold.wait(10) and 200 or 200) as receiver:
        job = submit_training(server, inputs, webhook={"url": receiver.url})
        server.wait(job)
        receiver.wait(1)
        row = deliveries(server, job)[0]
        assert row["status"] == "sending"
        assert server.post(f"/v1/jobs/{job['id']}/deliveries/{row['id']}/resend").status_code == 202
        hold.set()
        receiver.wait(2)


def test_a_host_of_other_letters_is_kept_as_it_is_sent(server):
    made = server.post("/v1/webhooks", json={"url": "https://bücher.example/hook"})
    assert made.json()["url"] == "https://xn--bcher-kva.example/hook"
    assert server.delete(f"/v1/webhooks/{made.json()['id']}").status_code == 204


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:9/", "http://localhost:9/", "http://LOCALHOST./", "http://127.1/", "http://0x7f000001/",
    "http://2130706433/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://10.0.0.1/", "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/", "http://[fd00::1]/", "http://0.0.0.0/", "http://metadata.google.internal/"])
def test_private_targets_are_refused(server, digits_model, digits, url):
    body = {"kind": "train", "model": digits_model["id"], "dataset": digits["id"], "params": TRAINING,
            "webhook": {"url": url}}
    assert_problem(server.post("/v1/jobs", json=body), 422, "webhook_not_allowed", pointer="/webhook/url",
                   says="webhooks_private")
    assert_problem(server.post("/v1/webhooks", json={"url": url}), 422, "webhook_not_allowed", pointer="/url")


@pytest.mark.parametrize("webhook, pointer", [
    ({"url": "example.org"}, "/webhook/url"), ({"url": "ftp://example.org"}, "/webhook/url"),
    ({"url": "https://a:b@example.org"}, "/webhook/url"), ({}, None),
    ({"url": "https://example.org", "events": []}, "/webhook/events"),
    ({"url": "https://example.org", "events": ["job.done"]}, "/webhook/events/0"),
    ({"url": "https://example.org", "secret": "x"}, "/webhook/secret")])
def test_wrong_webhooks_are_pointed_at(server, digits_model, digits, webhook, pointer):
    body = {"kind": "train", "model": digits_model["id"], "dataset": digits["id"], "params": TRAINING, "webhook": webhook}
    assert_problem(server.post("/v1/jobs", json=body), 422, pointer=pointer)


def test_a_name_that_leads_into_a_private_network_is_not_connected_to(start_server):
    """The name is this machine's own, which the server can't see before it looks it up."""
    server = start_server("--webhook-retry-seconds", "0")
    inputs = server.upload_model(), server.upload_dataset()
    with receiving() as receiver:
        port = receiver.server.server_port
        job = submit_training(server, inputs, webhook={"url": f"http://{socket.gethostname()}:{port}/"})
        server.wait(job)
        wait_until(lambda: deliveries(server, job)[0]["status"] == "failed", what="the end")
        assert not receiver.received
        error = deliveries(server, job)[0]["last_error"]
        assert "webhooks_private" in error or "lookup" in error or "host" in error


def test_secrets_are_for_those_who_submit_and_webhooks_for_their_project(start_server):
    server = start_server()
    submit, other, read = new_key(server), new_key(server, project="other"), new_key(server, role="read")
    url = "https://example.org/hook"
    made = server.post("/v1/webhooks", json={"url": url}, headers=bearer(submit)).json()
    theirs = server.post("/v1/webhooks", json={"url": url}, headers=bearer(other)).json()
    assert made["secret"] != theirs["secret"]
    seen = server.get("/v1/webhooks", headers=bearer(read)).json()["data"]
    assert [(row["id"], row["secret"]) for row in seen] == [(made["id"], None)]
    assert_problem(server.delete(f"/v1/webhooks/{made['id']}", headers=bearer(other)), 404)
    assert server.delete(f"/v1/webhooks/{made['id']}", headers=bearer(submit)).status_code == 204
    anew = server.post("/v1/webhooks", json={"url": url}, headers=bearer(submit)).json()
    assert anew["secret"] != made["secret"]


def test_tls_is_verified(open_server, tmp_path, certificate):
    with receiving(tls=certificate) as receiver:
        server = open_server("--webhook-retry-seconds", "0", folder=tmp_path / "strict")
        inputs = server.upload_model(), server.upload_dataset()
        job = submit_training(server, inputs, webhook={"url": receiver.url})
        server.wait(job)
        wait_until(lambda: deliveries(server, job)[0]["status"] == "failed", what="the end")
        assert "certificate" in deliveries(server, job)[0]["last_error"].lower()
        server.stop()
        server.flags += ["--outgoing-ca", str(certificate[0])]
        server.start().wait_ready()
        job = submit_training(server, inputs, webhook={"url": receiver.url})
        server.wait(job)
        Webhook(secret_of(server, receiver.url)).verify(receiver.wait(1)[0][1], lowered(receiver.received[0][0]))


@pytest.mark.parametrize("place", ["delivery_taken", "delivery_sent"])
def test_a_server_that_dies_while_it_tells_tells_again(tmp_path, place):
    server = Server(tmp_path, ("--webhooks-private", "true"), env={"SINTER_CRASH_AT": place})
    server.start().wait_ready()
    inputs = server.upload_model(), server.upload_dataset()
    with receiving() as receiver:
        job = submit_training(server, inputs, webhook={"url": receiver.url})
        wait_until(lambda: server.process.poll() is not None, 60, "the crash")
        server.kill()
        server.env.clear()
        server.start().wait_ready()
        messages = receiver.wait(1 if place == "delivery_taken" else 2)
        wait_until(lambda: deliveries(server, job)[0]["status"] == "delivered", what="the delivery")
    # At least once, and the receiver can tell that it is the same.
    assert len({lowered(headers)["webhook-id"] for headers, *_ in messages}) == 1
    server.stop()
