"""Webhooks verified by the JavaScript library of Standard Webhooks, which most of those who receive them use."""

import datetime
import json
import pathlib
import shutil
import subprocess

import pytest
from standardwebhooks import Webhook

from conftest import Server
from lifecycle_tools import submit_training
from test_webhooks import lowered, receiving, secret_of

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "webhooks"


def verdict(secret, headers, body):
    """What the library says of a message."""
    if shutil.which("node") is None:
        pytest.fail("node is missing: install Node.js 20 or newer")
    if not (FOLDER / "node_modules" / "standardwebhooks").is_dir():
        pytest.fail(f"the library is missing: run `npm ci` in {FOLDER}")
    message = json.dumps({"secret": secret, "headers": headers, "body": body.decode()})
    ran = subprocess.run(["node", FOLDER / "verify.mjs"], input=message, text=True, capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def delivery(tmp_path_factory):
    """The secret, the headers and the body of a message that a server has sent, and its job."""
    with Server(tmp_path_factory.mktemp("webhooks"), ("--webhooks-private", "true")) as server, receiving() as receiver:
        server.wait_ready()
        inputs = server.upload_model(), server.upload_dataset()
        # Letters beyond ASCII are signed as the bytes that are sent.
        job = submit_training(server, inputs, webhook={"url": receiver.url}, tags={"place": "Zürich"})
        server.wait(job)
        headers, body, _, _ = receiver.wait(1)[0]
        yield secret_of(server, receiver.url), lowered(headers), body, job


def test_a_message_is_accepted_and_read(delivery):
    secret, headers, body, job = delivery
    said = verdict(secret, headers, body)
    assert said["accepted"], said
    assert said["message"]["type"] == "job.finished"
    assert said["message"]["data"]["id"] == job["id"] and said["message"]["data"]["tags"] == {"place": "Zürich"}


def test_a_body_that_was_changed_is_refused(delivery):
    secret, headers, body, _ = delivery
    changed = body.replace(b"succeeded", b"failed")
    assert changed != body
    assert verdict(secret, headers, changed) == {"accepted": False, "reason": "No matching signature found"}


def test_another_secret_is_refused(delivery):
    secret, headers, body, _ = delivery
    other = secret[:-8] + ("AAAAAAA=" if secret.endswith("=") else "AAAAAAAA")
    assert verdict(other, headers, body) == {"accepted": False, "reason": "No matching signature found"}


def test_a_message_that_is_sent_again_later_is_refused(delivery):
    """Signed as it should be, so that its age is the reason."""
    secret, headers, body, _ = delivery
    then = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=10)
    old = {**headers, "webhook-timestamp": str(int(then.timestamp())),
           "webhook-signature": Webhook(secret).sign(headers["webhook-id"], then, body.decode())}
    assert verdict(secret, old, body) == {"accepted": False, "reason": "Message timestamp too old"}
