"""Keys, roles and projects: who sees and changes what, on every route that the document has."""

import concurrent.futures
import contextlib
import os
import pathlib
import re
import time

import pytest

from conftest import DIGITS, DIGITS_CNN, Server, assert_problem, run_sinter

UPLOAD = b"not a model"
OPEN = {"/healthz", "/readyz"}
METHODS = ("get", "post", "put", "patch", "delete")


def new_key(server, *, role="submit", project="default", name="test", more=()):
    made = run_sinter("key", "create", "--name", name, "--role", role, "--project", project, *more,
                      "--data-dir", server.data_dir)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def tenants(tmp_path_factory):
    """A server with two projects, each with a model, a data set and an ended job of its own."""
    with Server(tmp_path_factory.mktemp("tenants")) as server:
        keys = {
            (role, project): new_key(server, role=role, project=project)
            for role in ("read", "submit", "admin")
            for project in ("red", "blue")
        }
        owned = {}
        for project in ("red", "blue"):
            server.key = keys["submit", project]
            server.wait_ready()
            model, data = server.upload_model(DIGITS_CNN, project), server.upload_dataset(DIGITS, project)
            job = server.run("evaluate", model, data, data={"preprocess": {"scale": 0.0625}})
            upload = server.post("/v1/models", params={"name": project}, headers={"Upload-Complete": "?0"}).json()
            owned[project] = {"models": model["id"], "datasets": data["id"], "jobs": job["id"], "uploads": upload["id"]}
        server.key = None
        yield server, keys, owned


def calls(server):
    """Every method and path of the document that needs a key."""
    document = server.get("/openapi.json").json()
    return [
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item and path not in OPEN
    ]


def filled(path, owned):
    """The path of something that is there."""
    kind = path.split("/")[2] if path.startswith("/v1/") else ""
    return re.sub("{id}", owned.get(kind, ""), path).replace("{name}", "report.html")


def test_every_route_asks_for_a_key(tenants):
    server, _, owned = tenants
    asked = 0
    for method, path in calls(server):
        for headers in ({}, bearer("sinter_wrong"), bearer("")):
            answer = server.request(method, filled(path, owned["red"]), headers=headers, data=UPLOAD)
            assert_problem(answer, 401, "unauthorized")
            asked += 1
    assert asked > 60


def test_a_key_that_may_read_changes_nothing(tenants):
    server, keys, owned = tenants
    for method, path in calls(server):
        answer = server.request(method, filled(path, owned["red"]), headers=bearer(keys["read", "red"]), data=UPLOAD)
        if method == "GET":
            assert answer.status_code == 200, (path, answer.text)
        else:
            assert_problem(answer, 403, "forbidden")


@pytest.mark.parametrize("role", ["read", "submit"])
def test_what_another_project_has_is_not_there(tenants, role):
    server, keys, owned = tenants
    seen = 0
    for method, path in calls(server):
        if "{id}" not in path or (role == "read" and method != "GET"):
            continue
        headers = bearer(keys[role, "blue"])
        # A change is JSON, whatever becomes of it; a piece of an upload is not.
        body = {"json": {"name": "taken over"}} if method == "PATCH" and "/uploads/" not in path else {"data": UPLOAD}
        found = server.request(method, filled(path, owned["red"]), headers=headers, **body)
        # The same answer as for what never was.
        nothing = {kind: "019353e0-0000-7000-8000-000000000001" for kind in owned["red"]}
        missing = server.request(method, filled(path, nothing), headers=headers, **body)
        assert_problem(found, 404)
        assert found.json()["code"] == missing.json()["code"], path
        seen += 1
    assert seen >= 10
    for kind in ("models", "datasets", "jobs"):
        listed = server.get(f"/v1/{kind}", headers=bearer(keys[role, "blue"])).json()["data"]
        assert owned["red"][kind] not in [row["id"] for row in listed]
        assert owned["blue"][kind] in [row["id"] for row in listed]


def test_a_job_can_name_nothing_of_another_project(tenants):
    server, keys, owned = tenants
    headers = bearer(keys["submit", "blue"])
    own, other = owned["blue"], owned["red"]
    for body, code, pointer in [
        ({"kind": "evaluate", "model": other["models"], "dataset": own["datasets"]}, "model_not_found", "/model"),
        ({"kind": "evaluate", "model": own["models"], "dataset": other["datasets"]}, "dataset_not_found", "/dataset"),
        ({"kind": "distill", "model": own["models"], "dataset": own["datasets"],
          "params": {"student": {"model": other["models"]}}}, "model_not_found", "/params/student/model"),
    ]:
        assert_problem(server.post("/v1/jobs", json=body, headers=headers), 422, code, pointer=pointer)
    answer = server.post(f"/v1/models/{own['models']}/predict", params={"dataset": other["datasets"]},
                         headers={**headers, "Content-Type": "application/json"}, data=b"{}")
    assert_problem(answer, 404, "dataset_not_found")


def test_an_admin_sees_all_projects_and_makes_things_in_its_own(tenants):
    server, keys, owned = tenants
    headers = bearer(keys["admin", "blue"])
    for project in ("red", "blue"):
        assert server.get(f"/v1/models/{owned[project]['models']}", headers=headers).status_code == 200
    with DIGITS_CNN.open("rb") as file:
        made = server.post("/v1/models", params={"name": "of the admin"}, data=file, headers=headers).json()
    assert server.get(f"/v1/models/{made['id']}", headers=bearer(keys["read", "blue"])).status_code == 200
    assert server.get(f"/v1/models/{made['id']}", headers=bearer(keys["read", "red"])).status_code == 404


def test_an_idempotency_key_is_the_projects_own(tenants):
    server, keys, owned = tenants
    answers = []
    for project in ("red", "blue"):
        body = {"kind": "evaluate", "model": owned[project]["models"], "dataset": owned[project]["datasets"]}
        headers = {**bearer(keys["submit", project]), "Idempotency-Key": "the same"}
        answers.append(server.post("/v1/jobs", json=body, headers=headers))
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] != answers[1].json()["id"]


def test_a_key_is_shown_once_and_is_nowhere_in_the_data_folder(tenants):
    server, keys, _ = tenants
    listed = run_sinter("key", "list", "--data-dir", server.data_dir)
    assert listed.returncode == 0 and "red" in listed.stdout
    stored = b""
    for folder, _, names in os.walk(server.data_dir):
        for name in names:
            # Jobs of other tests may still run, and their files come and go.
            with contextlib.suppress(FileNotFoundError):
                stored += pathlib.Path(folder, name).read_bytes()
    for key in keys.values():
        assert key not in listed.stdout and key.encode() not in stored
        assert key[:15] in listed.stdout
        assert key not in server.log()
    assert (server.data_dir / "key-secret").stat().st_mode & 0o077 == 0


def test_a_revoked_key_and_an_expired_one_are_taken_no_more(start_server):
    server = start_server()
    first, second = new_key(server, name="first"), new_key(server, name="second", more=("--expires-in-days", "1"))
    assert server.get("/v1/models").status_code == 401, "a key was made, so one is needed, without a restart"
    for key in (first, second):
        assert server.get("/v1/models", headers=bearer(key)).status_code == 200
    revoked = run_sinter("key", "revoke", first[:15], "--data-dir", server.data_dir)
    assert revoked.returncode == 0
    assert_problem(server.get("/v1/models", headers=bearer(first)), 401, "unauthorized")
    assert server.get("/v1/models", headers=bearer(second)).status_code == 200
    assert run_sinter("key", "revoke", first[:15], "--data-dir", server.data_dir).returncode == 1
    import sqlite3

    with sqlite3.connect(server.data_dir / "sinter.sqlite") as database:
        database.execute("UPDATE keys SET expires_at = '2020-01-01T00:00:00.000Z' WHERE name = 'second'")
    database.close()
    assert_problem(server.get("/v1/models", headers=bearer(second)), 401, "unauthorized")


@pytest.mark.parametrize("arguments", [
    ("--name", "x", "--role", "root"), ("--name", "x", "--project", "a b"), ("--name", "x", "--project", "../etc"),
    ("--name", "x", "--expires-in-days", "0"), (),
])
def test_a_key_that_makes_no_sense_is_not_made(tmp_path, arguments):
    refused = run_sinter("key", "create", *arguments, "--data-dir", tmp_path / "data")
    assert refused.returncode == 2 and refused.stdout == ""
    assert not (tmp_path / "data").exists()


def test_with_a_key_of_its_own_a_server_may_listen_anywhere(tmp_path):
    server = Server(tmp_path, listen="0.0.0.0:0")
    key = new_key(server)
    with server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert server.get("/v1/models").status_code == 401
        assert server.get("/v1/models", headers=bearer(key)).status_code == 200


def test_a_key_has_its_rate_and_is_told_what_is_left(start_server):
    server = start_server("--requests-per-minute", "20", env={"SINTER_API_KEYS": "one"}, key="one")
    other = new_key(server)
    answers = [server.get("/v1/models") for _ in range(25)]
    passed = [answer for answer in answers if answer.status_code == 200]
    assert 20 <= len(passed) <= 22
    assert passed[0].headers["RateLimit-Policy"] == '"key";q=20;w=60'
    left = [int(re.search(r"r=(\d+)", answer.headers["RateLimit"])[1]) for answer in passed]
    assert left[0] >= left[-1] == 0
    refused = assert_problem(answers[-1], 429, "too_many_requests")
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60, refused
    # Others and probes go on.
    assert server.get("/v1/models", headers=bearer(other)).status_code == 200
    assert server.is_healthy()
    time.sleep(int(answers[-1].headers["Retry-After"]))
    assert server.get("/v1/models").status_code == 200


def test_how_long_a_refusal_takes_does_not_tell_how_much_of_a_key_is_right(start_server):
    """Medians over turns; what is compared is a digest, so that nothing of the key's own bytes can show."""
    server = start_server()
    key = new_key(server)
    import requests

    tried = {"nothing right": "x" * len(key), "all but the last": key[:-1] + ("a" if key[-1] != "a" else "b")}
    medians = []
    with requests.Session() as session:
        # A machine that is busy with other things may tell them apart once; what a key gives away does so each time.
        for _ in range(3):
            times = {name: [] for name in tried}
            for _ in range(200):
                for name, text in tried.items():
                    start = time.perf_counter()
                    assert session.get(server.url + "/v1/devices", headers=bearer(text)).status_code == 401
                    times[name].append(time.perf_counter() - start)
            first, second = (sorted(each)[len(each) // 2] for each in times.values())
            medians.append((first, second))
            if abs(first - second) < 0.3 * max(first, second):
                return
    pytest.fail(f"medians of three rounds, in seconds: {medians}")


# What browsers are told.


def test_no_other_origin_is_let_in_unless_it_is_named(start_server):
    closed, opened = start_server(), start_server("--cors-origins", "https://example.org")
    origin = {"Origin": "https://example.org"}
    assert "Access-Control-Allow-Origin" not in closed.get("/v1/models", headers=origin).headers
    asked = opened.request("OPTIONS", "/v1/jobs", headers={
        **origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"})
    assert asked.status_code == 200
    assert asked.headers["Access-Control-Allow-Origin"] == "https://example.org"
    assert "authorization" in asked.headers["Access-Control-Allow-Headers"]
    answer = opened.get("/v1/models", headers=origin)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://example.org"
    other = opened.get("/v1/models", headers={"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_a_server_without_keys_is_no_door_for_web_pages(server):
    """Names that were made to lead here (DNS rebinding), and requests that browsers send without asking."""
    assert_problem(server.get("/v1/models", headers={"Host": "evil.example"}), 403, "foreign_host")
    foreign = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert_problem(server.post("/v1/models", params={"name": "x"}, data=b"x", headers=foreign), 403, "foreign_origin")
    assert_problem(server.post("/v1/jobs", json={}, headers=foreign), 403, "foreign_origin")
    own = {"Origin": server.url}
    assert server.post("/v1/models", params={"name": "x"}, data=DIGITS_CNN.read_bytes(), headers=own).status_code == 201
    for name in ("localhost", "[::1]:80", "127.0.0.2"):
        assert server.get("/v1/models", headers={"Host": name}).status_code == 200


def test_a_stream_of_events_ends_when_its_key_is_revoked(start_server):
    from lifecycle_tools import ENDLESS, submit_training

    server = start_server()
    inputs = server.upload_model(), server.upload_dataset()
    job = submit_training(server, inputs, ENDLESS)
    key = new_key(server)
    with server.get(f"/v1/jobs/{job['id']}/events", headers={**bearer(key), "Accept": "text/event-stream"},
                    stream=True, timeout=60) as stream:
        assert next(stream.iter_lines())
        assert run_sinter("key", "revoke", key[:15], "--data-dir", server.data_dir).returncode == 0
        start = time.monotonic()
        for _ in stream.iter_lines():
            assert time.monotonic() - start < 40


def test_every_answer_forbids_guessing_its_type(server):
    for path in ("/v1/models", "/v1/nothing", "/healthz", "/", "/metrics", "/openapi.json"):
        assert server.get(path).headers["X-Content-Type-Options"] == "nosniff", path


def test_tls_is_spoken_with_the_certificate_of_the_settings(tmp_path, certificate):
    import http.client
    import socket
    import ssl
    import urllib.request

    certificate, key = certificate
    with Server(tmp_path / "server", ("--tls-certificate", certificate, "--tls-key", key)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=certificate)
        with urllib.request.urlopen(server.url + "/healthz", context=trusted, timeout=10) as answer:
            assert answer.status == 200
            assert "max-age" in answer.headers["Strict-Transport-Security"]
        trusted.set_alpn_protocols(["h2", "http/1.1"])
        host, port = server.url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port))) as plain, trusted.wrap_socket(plain, server_hostname=host) as spoken:
            assert spoken.selected_alpn_protocol() == "http/1.1"
        with pytest.raises(OSError):
            urllib.request.urlopen(server.url + "/healthz", timeout=10)
        with pytest.raises((OSError, http.client.HTTPException)):
            urllib.request.urlopen(server.url.replace("https", "http") + "/healthz", timeout=10)
    for flags, word in [(("--tls-certificate", certificate), "tls_key"),
                        (("--tls-certificate", key, "--tls-key", key), "certificate")]:
        refused = run_sinter("serve", "--listen", "127.0.0.1:0", *flags, "--data-dir", tmp_path / "other")
        assert refused.returncode != 0 and word in refused.stderr


def test_many_wrong_keys_at_once_leave_the_server_as_it_was(tenants):
    server, keys, _ = tenants
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        codes = set(pool.map(lambda n: server.get("/v1/jobs", headers=bearer(f"sinter_{n}")).status_code, range(300)))
    assert codes == {401}
    assert server.get("/v1/jobs", headers=bearer(keys["read", "red"])).status_code == 200
