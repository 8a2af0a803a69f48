"""The conventions that hold for every route: problems, lists, keys, request ids, downloads."""

import base64
import email.utils
import hashlib
import re
import socket
import time
import urllib.parse
import uuid

import pytest
import requests

import models
from conftest import DIGITS, DIGITS_CNN, Server, assert_problem, run_sinter
from lifecycle_tools import wait_until

NOBODY = "019353e0-0000-7000-8000-000000000001"
RFC_3339_UTC = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")


# Problems.


def test_an_unknown_route_is_a_problem(server):
    problem = assert_problem(server.get("/v1/nothing"), 404, "not_found")
    assert problem["instance"] == "/v1/nothing"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/models", {"GET", "HEAD", "POST"}),
        ("PATCH", "/v1/jobs", {"GET", "HEAD", "POST"}),
        ("POST", "/v1/devices", {"GET", "HEAD"}),
        ("POST", f"/v1/models/{NOBODY}/content", {"GET", "HEAD"}),
        ("GET", f"/v1/jobs/{NOBODY}/cancel", {"POST"}),
        ("DELETE", "/healthz", {"GET", "HEAD"}),
        ("POST", "/openapi.json", {"GET", "HEAD"}),
    ],
)
def test_a_method_that_a_path_does_not_answer_is_a_problem(server, method, path, allowed):
    answer = server.request(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    named = {name.strip() for name in answer.headers["Allow"].split(",")}
    assert named == allowed


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_job_that_is_not_sent_as_json_is_415(server, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    answer = server.post("/v1/jobs", data=b"{}", headers=headers)
    assert_problem(answer, 415, "unsupported_media_type", says="application/json")


def test_json_with_a_charset_or_a_json_suffix_is_accepted_as_json(server):
    for content_type in ("application/json; charset=utf-8", "application/merge-patch+json"):
        answer = server.post("/v1/jobs", data=b"{", headers={"Content-Type": content_type})
        assert_problem(answer, 400, "malformed_json")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/models/{}", "model_not_found"),
        ("DELETE", "/v1/models/{}", "model_not_found"),
        ("GET", "/v1/models/{}/content", "model_not_found"),
        ("GET", "/v1/models/{}/layers", "model_not_found"),
        ("GET", "/v1/datasets/{}", "dataset_not_found"),
        ("DELETE", "/v1/datasets/{}", "dataset_not_found"),
        ("GET", "/v1/jobs/{}", "job_not_found"),
        ("DELETE", "/v1/jobs/{}", "job_not_found"),
        ("POST", "/v1/jobs/{}/cancel", "job_not_found"),
        ("POST", "/v1/jobs/{}/retry", "job_not_found"),
        ("GET", "/v1/jobs/{}/events", "job_not_found"),
        ("GET", "/v1/jobs/{}/metrics", "job_not_found"),
        ("GET", "/v1/jobs/{}/artifacts", "job_not_found"),
        ("GET", "/v1/jobs/{}/artifacts/model.onnx", "job_not_found"),
    ],
)
@pytest.mark.parametrize("some_id", [NOBODY, "no-id", "%2e%2e%2fetc%2fpasswd", "a%00b", "'%20OR%201=1"])
def test_what_is_not_there_is_404_whatever_the_id_looks_like(server, method, path, code, some_id):
    answer = server.request(method, path.format(some_id))
    assert answer.status_code == 404, answer.text
    problem = answer.json()
    assert problem["code"] == code
    assert problem["request_id"] == answer.headers["X-Request-Id"]


def test_an_id_that_is_no_utf_8_is_a_problem_of_the_client(server):
    problem = server.get("/v1/models/%FF%FE").json()
    assert problem["status"] in (400, 404)
    assert problem["code"]


def test_every_problem_code_that_is_seen_is_explained_at_its_type(server):
    page = server.get("/docs/problems").text
    for answer in (
        server.get("/v1/nothing"),
        server.request("PUT", "/v1/models"),
        server.get(f"/v1/models/{NOBODY}"),
        server.get("/v1/models?limit=0"),
        server.get("/v1/models?colour=red"),
        server.post("/v1/jobs", json={"kind": "prune"}),
        server.post_model(b"no model"),
        server.post_model(models.unknown_operator()),
        server.post_model(models.with_external_data("missing.bin")[0]),
        server.post_model(models.with_external_data("../outside.bin")[0]),
        server.post_dataset(b"no,data\n"),
    ):
        kind = answer.json()["type"]
        path, fragment = kind.split("#")
        assert path == "/docs/problems"
        assert f'id="{fragment}"' in page, kind


# Lists.


@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets", "/v1/jobs"])
def test_a_list_has_data_and_a_cursor(server, digits_model, digits, path):
    answer = server.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json()) == {"data", "next_cursor"}


def test_pages_hold_each_row_once_the_newest_first_and_the_last_has_no_cursor(start_server):
    server = start_server()
    made = [server.upload_model(models.identity(), f"m{n}")["id"] for n in range(5)]
    seen, cursor, sizes = [], None, []
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = server.get("/v1/models", params=params).json()
        seen += [row["id"] for row in page["data"]]
        sizes.append(len(page["data"]))
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]
    assert sizes == [2, 2, 1]
    # A page that is exactly full and the last one needs no further one.
    assert server.get("/v1/models?limit=5").json()["next_cursor"] is None


def test_a_row_that_comes_or_goes_between_pages_shifts_nothing(start_server):
    server = start_server()
    made = [server.upload_model(models.identity(), f"m{n}")["id"] for n in range(4)]
    first = server.get("/v1/models?limit=2").json()
    server.upload_model(models.identity(), "late")
    assert server.delete(f"/v1/models/{made[2]}").status_code == 204  # the cursor's own row
    second = server.get("/v1/models", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [row["id"] for row in second["data"]] == [made[1], made[0]]
    assert second["next_cursor"] is None


def test_twenty_rows_are_the_default_and_a_hundred_the_most(start_server):
    server = start_server()
    model = server.upload_model(models.mlp(), "m")
    for _ in range(21):
        params = {"granularity": "weight", "target": {"sparsity": 0.5}}
        server.submit("prune", model, params=params, priority=-1)
    assert len(server.get("/v1/jobs").json()["data"]) == 20
    assert len(server.get("/v1/jobs?limit=100").json()["data"]) == 21


@pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "1.5", "", "99999999999999999999"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets", "/v1/jobs"])
def test_a_limit_outside_of_1_to_100_is_400(server, path, limit):
    assert_problem(server.get(f"{path}?limit={limit}"), 400, "invalid_query_parameter")


@pytest.mark.parametrize("cursor", ["!!", "", "AAAA", "bm90IGFuIGlk IGF0IGFsbA"])
def test_a_cursor_that_no_list_gave_is_400(server, cursor):
    assert_problem(server.get("/v1/models", params={"cursor": cursor}), 400, "invalid_cursor")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models", "/v1/datasets", "/v1/jobs", "/v1/devices", "/v1/models/{model}",
        "/v1/models/{model}/content", "/v1/models/{model}/layers", "/v1/datasets/{dataset}",
    ],
)
def test_an_unknown_query_parameter_is_400_and_named(server, digits_model, digits, path):
    path = path.format(model=digits_model["id"], dataset=digits["id"])
    answer = server.get(path, params={"colour": "red"})
    assert_problem(answer, 400, "unknown_query_parameter", says="colour")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/datasets", "/v1/jobs"])
def test_an_unknown_query_parameter_of_a_creation_is_400(server, path):
    answer = server.post(path, params={"name": "x", "nmae": "y"}, data=b"x")
    assert_problem(answer, 400, "unknown_query_parameter")


def test_a_query_parameter_given_twice_is_400(server):
    assert_problem(server.get("/v1/models?limit=1&limit=2"), 400)


# JSON bodies.


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"colour": "red"}, "/colour"),
        ({"data": {"shuffle": True}}, "/data/shuffle"),
        ({"data": {"preprocess": {"gamma": 2}}}, "/data/preprocess/gamma"),
        ({"params": {"epoch": 1}}, "/params/epoch"),
        ({"params": {"optimizer": {"lr": 1}}}, "/params/optimizer/lr"),
        ({"params": {"schedule": {"warm/up~": 1}}}, "/params/schedule/warm~1up~0"),
        ({"kind": "pipeline", "params": {"steps": [{"kind": "train", "param": {}}]}},
         "/params/steps/0/param"),
        ({"kind": "pipeline",
          "params": {"steps": [{"kind": "evaluate"}, {"kind": "train", "params": {"epoch": 1}}]}},
         "/params/steps/1/params/epoch"),
    ],
)
def test_an_unknown_json_field_is_422_with_its_pointer(server, digits_model, digits, change, pointer):
    body = {"kind": "train", "model": digits_model["id"], "dataset": digits["id"], **change}
    assert_problem(server.post("/v1/jobs", json=body), 422, pointer=pointer)


def test_a_missing_field_is_422_with_its_pointer(server, digits_model):
    assert_problem(server.post("/v1/jobs", json={}), 422, pointer="/kind")
    assert_problem(server.post("/v1/jobs", json={"kind": "train"}), 422, pointer="/model")
    body = {"kind": "prune", "model": digits_model["id"], "params": {}}
    assert_problem(server.post("/v1/jobs", json=body), 422, pointer="/params/target")


# Creation.


def test_an_upload_is_201_with_the_location_of_what_it_made(server):
    for answer in (server.post_model(models.mlp(), "located"), server.post_dataset(DIGITS, "located")):
        assert answer.status_code == 201
        made = answer.json()
        location = answer.headers["Location"]
        assert location.endswith("/" + made["id"])
        assert server.get(location).json() == made


def test_a_job_is_202_with_its_location(server):
    model = server.upload_model(models.mlp(), "for a job")
    body = {"kind": "prune", "model": model["id"],
            "params": {"granularity": "weight", "target": {"sparsity": 0.5}}}
    answer = server.post("/v1/jobs", json=body)
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    assert server.wait(answer.json())["status"] == "succeeded"


def test_ids_are_uuids_of_version_7_and_times_are_rfc_3339_utc(server, digits_model, digits):
    for thing in (digits_model, digits):
        parsed = uuid.UUID(thing["id"])
        assert parsed.version == 7
        made_at = (parsed.int >> 80) / 1000
        # They may have been uploaded for a test long ago.
        assert abs(made_at - time.time()) < 7200
        assert RFC_3339_UTC.match(thing["created_at"])


# Request ids.


def test_a_request_id_is_echoed_put_into_problems_and_logged(start_server):
    server = start_server()
    answer = server.get("/v1/models/none", headers={"X-Request-Id": "my-request-42"})
    assert answer.headers["X-Request-Id"] == "my-request-42"
    assert answer.json()["request_id"] == "my-request-42"
    server.stop()
    assert "my-request-42" in server.log()


def test_a_request_without_an_id_gets_one_of_its_own(server):
    first, second = (server.get("/healthz").headers["X-Request-Id"] for _ in range(2))
    assert first != second
    assert uuid.UUID(first)


@pytest.mark.parametrize("bad", ["a b", "x" * 129, "", "caf\xe9"])
def test_a_request_id_that_is_unfit_for_a_log_is_replaced(server, bad):
    answer = server.get("/healthz", headers={"X-Request-Id": bad.encode("latin-1")})
    assert answer.status_code == 200
    assert answer.headers["X-Request-Id"] != bad


# Keys.


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("guarded"), env={"SINTER_API_KEYS": "first-key,second-key"}) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"), ("POST", "/v1/models?name=x"), ("GET", "/v1/datasets"),
        ("POST", "/v1/datasets?name=x"), ("GET", "/v1/jobs"), ("POST", "/v1/jobs"),
        ("GET", "/v1/devices"), ("GET", "/metrics"), ("GET", f"/v1/models/{NOBODY}"),
        ("DELETE", f"/v1/models/{NOBODY}"), ("GET", f"/v1/models/{NOBODY}/content"),
        ("GET", f"/v1/models/{NOBODY}/layers"), ("DELETE", f"/v1/datasets/{NOBODY}"),
        ("GET", f"/v1/jobs/{NOBODY}"), ("POST", f"/v1/jobs/{NOBODY}/cancel"),
        ("POST", f"/v1/jobs/{NOBODY}/retry"), ("GET", f"/v1/jobs/{NOBODY}/events"),
        ("GET", f"/v1/jobs/{NOBODY}/metrics"), ("GET", f"/v1/jobs/{NOBODY}/artifacts"),
        ("GET", f"/v1/jobs/{NOBODY}/artifacts/model.onnx"), ("DELETE", f"/v1/jobs/{NOBODY}"),
    ],
)
def test_without_a_key_every_resource_is_401(guarded, method, path):
    answer = guarded.request(method, path, data=b"x" if method == "POST" else None)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "value",
    ["Bearer wrong", "Bearer first-key,second-key", "Bearer", "Bearer ", "first-key",
     "Basic first-key", "Bearer first-ke", "Bearer first-key2"],
)
def test_a_wrong_key_is_401(guarded, value):
    assert_problem(guarded.get("/v1/models", headers={"Authorization": value}), 401, "unauthorized")


@pytest.mark.parametrize("value", ["Bearer first-key", "Bearer second-key", "bearer second-key"])
def test_each_configured_key_opens(guarded, value):
    assert guarded.get("/v1/models", headers={"Authorization": value}).json()["data"] == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/"])
def test_probes_and_pages_need_no_key(guarded, path):
    assert guarded.get(path).status_code == 200


def test_a_key_is_never_logged(guarded):
    guarded.get("/v1/models", headers={"Authorization": "Bearer first-key"})
    assert "first-key" not in guarded.log()


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_an_address_that_others_reach_is_refused_without_keys(tmp_path, address):
    ended = run_sinter("serve", "--listen", address, "--data-dir", tmp_path / "data")
    assert ended.returncode != 0
    assert "api_keys" in ended.stderr and "127.0.0.1" in ended.stderr
    assert ended.stdout == ""
    assert not (tmp_path / "data").exists()


def test_with_keys_any_address_is_taken(tmp_path):
    server = Server(tmp_path, listen="0.0.0.0:0", env={"SINTER_API_KEYS": "k"}, key="k")
    with server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert server.get("/v1/models").status_code == 200


def test_a_server_without_keys_says_that_it_listens_on_loopback_only(server):
    assert "loopback" in server.log() and "api_keys" in server.log()


def test_a_log_that_goes_to_a_file_holds_no_terminal_codes(server):
    assert "\x1b" not in server.log()


# Idempotency.


def creations(server):
    """For each kind of creation: how to do it once and in another form."""
    model = server.upload_model(models.mlp(), "base")

    def job(key, other=False):
        body = {"kind": "prune", "model": model["id"], "name": "b" if other else "a",
                "params": {"granularity": "weight", "target": {"sparsity": 0.5}}}
        return server.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})

    def upload(route, content, key, other):
        params = {"name": "other" if other else "same"}
        return server.post(route, params=params, data=content, headers={"Idempotency-Key": key})

    def model_upload(key, other=False):
        return upload("/v1/models", models.mlp(seed=2), key, other)

    def dataset_upload(key, other=False):
        return upload("/v1/datasets", DIGITS.read_bytes(), key, other)

    return {"/v1/jobs": job, "/v1/models": model_upload, "/v1/datasets": dataset_upload}


def created(server, route):
    """How many there are, without the models of jobs, which may come meanwhile."""
    return len([row for row in server.all_rows(route) if row.get("job_id") is None])


@pytest.mark.parametrize("route", ["/v1/jobs", "/v1/models", "/v1/datasets"])
def test_a_key_with_the_same_request_replays_the_first_answer(server, route):
    create = creations(server)[route]
    key = str(uuid.uuid4())
    first = create(key)
    count = created(server, route)
    second = create(key)
    assert first.status_code in (201, 202)
    assert second.status_code == first.status_code
    assert second.content == first.content
    assert second.headers["Location"] == first.headers["Location"]
    assert created(server, route) == count


@pytest.mark.parametrize("route", ["/v1/jobs", "/v1/models", "/v1/datasets"])
def test_a_key_with_another_request_is_422(server, route):
    create = creations(server)[route]
    key = str(uuid.uuid4())
    assert create(key).status_code in (201, 202)
    count = created(server, route)
    assert_problem(create(key, other=True), 422, "idempotency_key_reused")
    assert created(server, route) == count


def test_a_key_with_other_bytes_of_the_same_length_is_422(server):
    key = {"Idempotency-Key": str(uuid.uuid4())}
    assert server.post_model(models.mlp(seed=3), "same", headers=key).status_code == 201
    other = models.mlp(seed=4)
    assert len(other) == len(models.mlp(seed=3))
    assert_problem(server.post_model(other, "same", headers=key), 422, "idempotency_key_reused")


def test_a_key_of_one_kind_of_creation_is_free_for_another(server):
    key = str(uuid.uuid4())
    create = creations(server)
    assert [create[route](key).status_code for route in create] == [202, 201, 201]


def test_a_key_survives_a_restart_of_the_server(start_server):
    server = start_server()
    key = {"Idempotency-Key": "once"}
    first = server.post_model(DIGITS_CNN, "m", headers=key).json()
    server.restart()
    assert server.post_model(DIGITS_CNN, "m", headers=key).json() == first
    assert len(server.all_rows("/v1/models")) == 1


def test_a_key_of_a_refused_request_is_free_again(server):
    key = {"Idempotency-Key": str(uuid.uuid4())}
    assert server.post_model(b"no model", "m", headers=key).status_code == 422
    assert server.post_model(models.mlp(seed=5), "m", headers=key).status_code == 201


@pytest.mark.parametrize("route", ["/v1/models", "/v1/datasets", "/v1/jobs"])
def test_a_key_whose_first_request_still_runs_is_409(server, route):
    key = {"Idempotency-Key": str(uuid.uuid4()), "Content-Type": "application/json"}
    body = models.mlp(seed=6)
    params = {} if route == "/v1/jobs" else {"name": "slow"}
    address = urllib.parse.urlsplit(server.url)
    head = [f"POST {route}?{urllib.parse.urlencode(params)} HTTP/1.1", f"Host: {address.netloc}", "Expect: 100-continue",
            f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in key.items())]
    with socket.create_connection((address.hostname, address.port), timeout=60) as slow, slow.makefile("rb") as answer:
        slow.sendall("\r\n".join([*head, "", ""]).encode())
        # The server asks for the body when it has taken the key.
        assert answer.readline() == b"HTTP/1.1 100 Continue\r\n" and answer.readline() == b"\r\n"
        slow.sendall(body[:100])
        second = server.post(route, params=params, data=b"{}", headers=key)
        slow.sendall(body[100:])
        status = int(answer.readline().split()[1])
    assert_problem(second, 409, "idempotency_key_in_use")
    # Afterwards the key is free or replays, but is not in use.
    assert status in (201, 400, 422)
    again = server.post(route, params=params, data=body, headers=key)
    assert again.status_code != 409


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_empty_or_too_long_is_400(server, key):
    answer = server.post_model(models.mlp(), "m", headers={"Idempotency-Key": key})
    assert_problem(answer, 400, "invalid_idempotency_key")


def test_the_same_form_with_another_boundary_is_the_same_request(server):
    key = {"Idempotency-Key": str(uuid.uuid4())}

    def send():
        form = {"file": ("m.onnx", models.mlp(seed=7)), "name": (None, "formed")}
        return server.post("/v1/models", files=form, headers=key)

    first = send()
    assert first.status_code == 201
    assert send().json() == first.json()


# Downloads.


@pytest.fixture(scope="module")
def download(server, digits_model):
    path = f"/v1/models/{digits_model['id']}/content"
    return path, DIGITS_CNN.read_bytes()


def test_a_download_has_the_digest_of_its_bytes_as_etag_and_repr_digest(server, digits_model, download):
    path, content = download
    answer = server.get(path)
    digest = hashlib.sha256(content)
    assert answer.content == content
    assert answer.headers["ETag"] == f'"{digest.hexdigest()}"'
    assert answer.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Length"] == str(len(content))
    assert digits_model["digest"] == "sha256:" + digest.hexdigest()


def test_head_says_what_get_would_say_without_the_bytes(server, download):
    path, content = download
    head, get = server.request("HEAD", path), server.get(path)
    assert head.status_code == 200 and head.content == b""
    for name in ("ETag", "Content-Length", "Content-Type", "Accept-Ranges", "Repr-Digest", "Content-Disposition"):
        assert head.headers[name] == get.headers[name]
    assert head.headers["Content-Length"] == str(len(content))


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-0", 0, 0), ("bytes=10-19", 10, 19), ("bytes=-7", -7, -1), ("bytes=166000-", 166000, -1),
     ("bytes=166000-999999", 166000, -1), ("bytes=-99999999", 0, -1)],
)
def test_a_range_is_206_with_exactly_these_bytes(server, download, asked, first, last):
    path, content = download
    size = len(content)
    first, last = first % size, last % size
    answer = server.get(path, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == content[first : last + 1]
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{size}"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    # RFC 9530: the digest of the whole representation, whatever part is sent.
    assert answer.headers["Repr-Digest"] == server.get(path).headers["Repr-Digest"]


def test_two_halves_make_the_whole(server, download):
    path, content = download
    middle = len(content) // 2
    etag = server.get(path).headers["ETag"]
    halves = [
        server.get(path, headers={"Range": asked, "If-Range": etag})
        for asked in (f"bytes=0-{middle - 1}", f"bytes={middle}-")
    ]
    assert [half.status_code for half in halves] == [206, 206]
    assert halves[0].content + halves[1].content == content


@pytest.mark.parametrize("asked", ["bytes=166222-", "bytes=999999-9999999", "bytes=-0"])
def test_a_range_past_the_end_is_416_with_the_size(server, download, asked):
    path, content = download
    answer = server.get(path, headers={"Range": asked})
    assert_problem(answer, 416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(content)}"


@pytest.mark.parametrize(
    "asked", ["lines=0-1", "bytes=", "bytes=a-b", "bytes=5-2", "bytes 0-1", "bytes=0-5,3-8"]
)
def test_a_range_that_is_malformed_or_of_several_parts_is_ignored(server, download, asked):
    # RFC 9110, section 14.2: an invalid ranges-specifier is ignored; 416 is only for a valid one
    # of which no part exists.
    path, content = download
    answer = server.get(path, headers={"Range": asked})
    assert answer.status_code == 200, answer.status_code
    assert answer.content == content


def test_if_range_with_another_etag_sends_the_whole(server, download):
    path, content = download
    for stale in ('"0000"', 'W/' + server.get(path).headers["ETag"], email.utils.formatdate(usegmt=True)):
        answer = server.get(path, headers={"Range": "bytes=0-9", "If-Range": stale})
        assert (answer.status_code, len(answer.content)) == (200, len(content))


def test_if_none_match_with_the_etag_is_304_without_a_body(server, download):
    path, content = download
    etag = server.get(path).headers["ETag"]
    for tags in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        answer = server.get(path, headers={"If-None-Match": tags})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == etag
    answer = server.get(path, headers={"If-None-Match": '"x"'})
    assert (answer.status_code, answer.content) == (200, content)


def test_a_download_is_named_after_the_model_even_beyond_ascii(server):
    for name, plain, encoded in [
        ("lenet", "lenet.onnx", "lenet.onnx"),
        ("lenet.onnx", "lenet.onnx", "lenet.onnx"),
        ('né"t/..\\x', None, "n%C3%A9%22t%2F..%5Cx.onnx"),
    ]:
        model = server.upload_model(models.identity(), name)
        value = server.get(f"/v1/models/{model['id']}/content").headers["Content-Disposition"]
        assert value.startswith("attachment;")
        assert f"filename*=UTF-8''{encoded}" in value
        if plain:
            assert f'filename="{plain}"' in value
        quoted = re.search(r'filename="([^"]*)"', value).group(1)
        assert "/" not in quoted and "\\" not in quoted


# Operations and pages.


def test_the_server_is_healthy_and_ready(server):
    assert server.is_healthy()
    answer = server.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "checks": {"store": "ok", "worker": "ok"}}


def test_prometheus_reads_the_metrics(server, digits_model):
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    before = server.get("/metrics")
    server.get("/v1/models/none")
    answer = server.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")

    def not_found(text):
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert all(name.startswith("sinter_") for name in families)
        assert "sinter_job_queue_seconds" in families
        return sum(
            sample.value
            for family in families.values()
            for sample in family.samples
            if sample.labels.get("status") == "404" and sample.labels.get("route") == "/v1/models/{id}"
            and (sample.name.endswith("_count") or sample.name.endswith("requests_total"))
        )

    assert not_found(answer.text) > not_found(before.text)


def test_ids_do_not_become_labels_of_metrics(server):
    server.get(f"/v1/models/{NOBODY}")
    server.get("/v1/some-path-that-nobody-has")
    text = server.get("/metrics").text
    assert NOBODY not in text
    assert "some-path-that-nobody-has" not in text


def test_methods_that_nobody_knows_do_not_become_labels_of_metrics(server):
    for method in ("FOO", "BAR", "PROPFIND"):
        server.request(method, "/v1/models")
    text = server.get("/metrics").text
    assert 'method="_OTHER"' in text and "FOO" not in text and "PROPFIND" not in text


def test_the_pages_are_html_with_a_policy(server):
    for path in ("/", "/docs/problems"):
        answer = server.get(path)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "Sinter" in server.get("/").text


def test_the_docs_page_shows_the_document_of_this_server(server):
    answer = server.get("/docs")
    assert answer.status_code == 200 and "text/html" in answer.headers["Content-Type"]
    scripts = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert scripts, "a page without its scripts shows nothing"
    pieces = ""
    for script in scripts:
        assert not script.startswith(("http:", "https:", "//")), script
        piece = requests.get(requests.compat.urljoin(answer.url, script), timeout=30)
        assert piece.status_code == 200, script
        pieces += piece.text if script.endswith(".js") else ""
    assert "/openapi.json" in pieces


def test_the_devices_name_the_processor_and_which_of_them_auto_takes(server):
    answer = server.get("/v1/devices")
    assert answer.status_code == 200
    devices = answer.json()["data"]
    assert all(set(device) >= {"name", "adapter", "type", "backend"} for device in devices)
    names = [device["name"] for device in devices]
    assert "cpu" in names and len(set(names)) == len(names)
    cpu = next(device for device in devices if device["name"] == "cpu")
    assert cpu["type"] == "cpu" and cpu["adapter"]


# Settings.


def ends_with_message(tmp_path, *flags, env=None, file=None):
    """The message of a server that refuses to start."""
    if file is not None:
        (tmp_path / "sinter.toml").write_text(file)
    ended = run_sinter("serve", *flags, env=env, cwd=tmp_path)
    assert ended.returncode != 0 and ended.stdout == ""
    return ended.stderr


def test_a_flag_wins_over_the_environment_which_wins_over_the_file_which_wins_over_the_default(tmp_path):
    flag, env, file = (tmp_path / name for name in ("from-flag", "from-env", "from-file"))
    settings = f'listen = "127.0.0.1:0"\ndata_dir = "{file}"\nlog_format = "json"\n'

    def data_dirs(name, flags=(), env=None, text=settings):
        server = Server(tmp_path / name, flags, env, listen=None, data_dir_flag=False)
        (server.folder / "sinter.toml").write_text(text)
        with server:
            assert server.is_healthy()
        # What was not overridden comes from the file.
        if "json" in text:
            assert server.log().startswith("{")
        return {path.name for path in (flag, env_dir, file, server.folder / "sinter-data") if path.exists()}

    env_dir = env
    default = 'listen = "127.0.0.1:0"\n'
    assert data_dirs("a", text=default) == {"sinter-data"}
    assert data_dirs("b") == {"from-file"}
    assert data_dirs("c", env={"SINTER_DATA_DIR": str(env_dir)}) == {"from-file", "from-env"}
    assert data_dirs("d", ["--data-dir", str(flag)], {"SINTER_DATA_DIR": str(env_dir / "never")}) == {
        "from-file", "from-env", "from-flag",
    }
    assert not (env_dir / "never").exists()


def test_a_settings_file_can_be_named_by_flag_and_by_environment(tmp_path):
    text = 'listen = "127.0.0.1:0"\napi_keys = ["from-the-file"]\n'
    (tmp_path / "other.toml").write_text(text)
    named = str(tmp_path / "other.toml")
    for flags, env in ((["--config", named], {}), ([], {"SINTER_CONFIG": named})):
        server = Server(tmp_path / f"s{len(flags)}", flags, env, listen=None, key="from-the-file")
        with server:
            assert server.get("/v1/models").status_code == 200
            assert server.get("/v1/models", headers={"Authorization": "Bearer x"}).status_code == 401


def test_an_unknown_setting_is_refused_by_name(tmp_path):
    assert "workerz" in ends_with_message(tmp_path, file="workerz = 2\n")


def test_a_setting_of_the_wrong_type_is_refused_by_name(tmp_path):
    assert "workers" in ends_with_message(tmp_path, file='workers = "two"\n')


def test_a_settings_file_that_is_named_but_not_there_is_refused(tmp_path):
    assert "missing.toml" in ends_with_message(tmp_path, "--config", "missing.toml")


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({"SINTER_WORKERS": "0"}, "workers"),
        ({"SINTER_WORKERS": "many"}, "many"),
        ({"SINTER_LISTEN": "here"}, "here"),
        ({"SINTER_LEASE_SECONDS": "2", "SINTER_HEARTBEAT_SECONDS": "3"}, "lease_seconds"),
        ({"SINTER_API_KEYS": "a,,b"}, "api_keys"),
        ({"SINTER_LOG": "a=b=c"}, "log"),
        ({"SINTER_MAX_UPLOAD_BYTES": "0"}, "max_upload_bytes"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_at_start(tmp_path, env, word):
    assert word in ends_with_message(tmp_path, env={"SINTER_DATA_DIR": str(tmp_path / "d"), **env})


def test_the_default_file_is_printed_and_works_as_a_settings_file(tmp_path):
    import tomllib

    printed = run_sinter("serve", "--print-default-config")
    assert printed.returncode == 0
    settings = tomllib.loads(printed.stdout)
    assert settings["listen"] == "127.0.0.1:8080" and settings["workers"] == 1
    help_text = run_sinter("serve", "--help").stdout
    for name in settings:
        assert "--" + name.replace("_", "-") in help_text
        assert "SINTER_" + name.upper() in help_text
    server = Server(tmp_path)
    (server.folder / "sinter.toml").write_text(printed.stdout)
    with server:
        assert server.is_healthy()


def test_a_second_server_on_the_same_folder_is_refused(start_server):
    server = start_server()
    ended = run_sinter("serve", "--listen", "127.0.0.1:0", "--data-dir", server.data_dir)
    assert ended.returncode != 0
    assert str(server.data_dir) in ended.stderr or "another" in ended.stderr
    assert server.is_healthy()


def test_an_upload_above_the_limit_is_413_whether_its_length_is_announced_or_not(start_server):
    server = start_server("--max-upload-bytes", "1000")
    for route in ("/v1/models", "/v1/datasets"):
        assert_problem(server.post(route, params={"name": "x"}, data=b"x" * 1001), 413, "body_too_large")
        chunks = (b"x" * 500 for _ in range(3))
        assert_problem(server.post(route, params={"name": "x"}, data=chunks), 413, "body_too_large")
        form = {"file": ("m", b"x" * 1001)}
        assert_problem(server.post(route, params={"name": "x"}, files=form), 413, "body_too_large")
        # Several files count together.
        form = [("file", (f"f{n}", b"x" * 400)) for n in range(3)]
        assert_problem(server.post(route, params={"name": "x"}, files=form), 413, "body_too_large")
    wait_until(lambda: set(server.stored_files()) <= {"key-secret", "lock"}, what="an empty staging folder")
    assert server.is_healthy()
