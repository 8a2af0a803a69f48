"""The OpenAPI document: current, valid, complete, and true of what the server answers."""

import json
import re

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from conftest import DIGITS, DIGITS_CNN, ROOT, run_sinter

CHECKED_IN = ROOT / "openapi" / "openapi.json"

# Every call of the contract, with the statuses that it promises.
CALLS = {
    ("post", "/v1/models"): {"201"},
    ("get", "/v1/models"): {"200"},
    ("get", "/v1/models/{id}"): {"200"},
    ("patch", "/v1/models/{id}"): {"200"},
    ("delete", "/v1/models/{id}"): {"204"},
    ("get", "/v1/models/{id}/content"): {"200", "206", "304"},
    ("get", "/v1/models/{id}/layers"): {"200"},
    ("get", "/v1/models/{id}/graph"): {"200"},
    ("post", "/v1/models/{id}/predict"): {"200"},
    ("post", "/v1/datasets"): {"201"},
    ("get", "/v1/datasets"): {"200"},
    ("get", "/v1/datasets/{id}"): {"200"},
    ("patch", "/v1/datasets/{id}"): {"200"},
    ("delete", "/v1/datasets/{id}"): {"204"},
    ("post", "/v1/jobs"): {"202", "200"},
    ("get", "/v1/jobs"): {"200"},
    ("get", "/v1/jobs/{id}"): {"200"},
    ("delete", "/v1/jobs/{id}"): {"204"},
    ("post", "/v1/jobs/{id}/cancel"): {"202"},
    ("post", "/v1/jobs/{id}/retry"): {"202"},
    ("get", "/v1/jobs/{id}/events"): {"200"},
    ("get", "/v1/jobs/{id}/metrics"): {"200"},
    ("get", "/v1/jobs/{id}/artifacts"): {"200"},
    ("get", "/v1/jobs/{id}/artifacts/{name}"): {"200", "206", "304"},
    ("get", "/v1/jobs/{id}/deliveries"): {"200"},
    ("post", "/v1/jobs/{id}/deliveries/{delivery}/resend"): {"202"},
    ("get", "/v1/webhooks"): {"200"},
    ("post", "/v1/webhooks"): {"200", "201"},
    ("delete", "/v1/webhooks/{id}"): {"204"},
    ("get", "/v1/uploads/{id}"): {"200"},
    ("patch", "/v1/uploads/{id}"): {"201", "204"},
    ("delete", "/v1/uploads/{id}"): {"204"},
    ("get", "/v1/devices"): {"200"},
    ("get", "/healthz"): {"200"},
    ("get", "/readyz"): {"200", "503"},
    ("get", "/metrics"): {"200"},
}


@pytest.fixture(scope="module")
def document(server):
    return server.get("/openapi.json").json()


def test_the_checked_in_document_is_what_the_program_prints_and_serves(server):
    printed = run_sinter("openapi")
    assert printed.returncode == 0
    assert CHECKED_IN.read_text() == printed.stdout, "run `sinter openapi > openapi/openapi.json`"
    answer = server.get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.text == printed.stdout


def test_the_document_is_valid_openapi_3_1(document):
    assert document["openapi"].startswith("3.1")
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_the_document_has_every_call_of_the_contract_and_no_other(document):
    found = {
        (method, path)
        for path, item in document["paths"].items()
        for method in item
        if method in ("get", "post", "put", "patch", "delete")
    }
    assert found == set(CALLS)


@pytest.mark.parametrize(("call", "statuses"), CALLS.items(), ids=lambda value: "-".join(sorted(map(str, value))))
def test_a_call_promises_its_statuses_and_problems(document, call, statuses):
    method, path = call
    operation = document["paths"][path][method]
    assert statuses <= set(operation["responses"])
    if path not in ("/healthz", "/readyz"):
        problem = operation["responses"]["default"]["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/Problem"}
    assert operation["summary"]
    named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
    assert named == set(re.findall(r"{(\w+)}", path))
    assert all(p["required"] for p in operation.get("parameters", []) if p["in"] == "path")


def test_no_query_or_header_parameter_is_required(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for parameter in operation.get("parameters", []):
                if parameter["in"] != "path":
                    assert not parameter.get("required"), (method, path, parameter["name"])


def test_the_document_names_the_keys_and_headers_of_the_contract(document):
    headers = {
        (method, path): {p["name"] for p in operation.get("parameters", []) if p["in"] == "header"}
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    for route in ("/v1/models", "/v1/datasets", "/v1/jobs"):
        assert "Idempotency-Key" in headers["post", route]
    assert "Prefer" in headers["get", "/v1/jobs/{id}"]
    assert "Last-Event-ID" in headers["get", "/v1/jobs/{id}/events"]
    for route in ("/v1/models/{id}/content", "/v1/jobs/{id}/artifacts/{name}"):
        assert {"Range", "If-None-Match", "If-Range"} <= headers["get", route]
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def validate(document, path, method, answer):
    """Checks an answer against the schema that the document has for it."""
    responses = document["paths"][path][method]["responses"]
    status = str(answer.status_code)
    content = responses.get(status, responses.get("default"))["content"]
    media_type = answer.headers["Content-Type"].split(";")[0]
    schema = {**content[media_type]["schema"], "components": document["components"]}
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    errors = [f"{error.json_path}: {error.message}" for error in checker.iter_errors(answer.json())]
    assert errors == []
    unknown = [
        name for name in answer.json()
        if (properties := resolve(document, schema).get("properties")) and name not in properties
    ]
    assert unknown == [], "fields that the document does not have"


def resolve(document, schema):
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def test_answers_are_as_the_document_says(server, document, digits_model, digits):
    ended = server.run("prune", digits_model, digits, {"target": {"macs_ratio": 0.5}, "finetune": {"epochs": 1}})
    failed = server.wait(server.submit(
        "prune", digits_model, params={"target": {"latency_ratio": 0.001}}))
    pipeline = server.run("pipeline", digits_model, digits, {"steps": [
        {"kind": "prune", "params": {"target": {"macs_ratio": 0.8}}}, {"kind": "evaluate"}]})
    evaluated = server.run("evaluate", digits_model, digits)
    search = {"space": {"width": [0.5, 1.0], "activation": ["Elu"], "hyperparameters": {
        "learning_rate": {"log_uniform": [1e-4, 1e-2]}, "optimizer": {"choice": ["sgd", "adamw"]}}},
        "objectives": [{"metric": "accuracy"}, {"metric": "latency_ms"}], "trials": 4, "trial": {"epochs": 1},
        "screening": {"proxy": "naswot", "candidates": 2}, "control": True,
        "evaluation": {"method": "cross_validation", "folds": 2}}
    searched = server.run("search", digits_model, digits, search)
    for path in ("/v1/models", "/v1/datasets", "/v1/jobs", "/v1/devices", "/healthz", "/readyz"):
        validate(document, path, "get", server.get(path))
    validate(document, "/v1/models/{id}", "get", server.get(f"/v1/models/{digits_model['id']}"))
    made = server.get(f"/v1/models/{ended['result']['model']}")
    validate(document, "/v1/models/{id}", "get", made)
    validate(document, "/v1/models/{id}/layers", "get", server.get(f"/v1/models/{digits_model['id']}/layers"))
    validate(document, "/v1/datasets/{id}", "get", server.get(f"/v1/datasets/{digits['id']}"))
    for job in (ended, failed, pipeline, evaluated, searched):
        validate(document, "/v1/jobs/{id}", "get", server.get(f"/v1/jobs/{job['id']}"))
        for part in ("events", "metrics", "artifacts"):
            validate(document, f"/v1/jobs/{{id}}/{part}", "get", server.get(f"/v1/jobs/{job['id']}/{part}"))
    validate(document, "/v1/models", "post", server.post_model(DIGITS_CNN, "m"))
    validate(document, "/v1/datasets", "post", server.post_dataset(DIGITS, "d"))
    body = {"kind": "prune", "model": digits_model["id"], "params": {"target": {"macs_ratio": 0.5}}}
    validate(document, "/v1/jobs", "post", server.post("/v1/jobs", json={**body, "dry_run": True}))
    validate(document, "/v1/jobs", "post", server.post("/v1/jobs", json={
        "kind": "search", "model": digits_model["id"], "params": search, "dry_run": True}))
    queued = server.post("/v1/jobs", json=body)
    validate(document, "/v1/jobs", "post", queued)
    validate(document, "/v1/jobs/{id}/cancel", "post", server.post(f"/v1/jobs/{queued.json()['id']}/cancel"))
    for problem, path, method in (
        (server.get("/v1/models/none"), "/v1/models/{id}", "get"),
        (server.post("/v1/jobs", json={"kind": "train"}), "/v1/jobs", "post"),
        (server.get("/v1/jobs?limit=0"), "/v1/jobs", "get"),
    ):
        validate(document, path, method, problem)


def test_what_the_document_allows_in_a_job_is_what_the_server_takes(server, document, digits_model, digits):
    """The examples of the contract pass the request's schema, and wrong ones do not."""
    media = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    schema = {**media["schema"], "components": document["components"]}
    checker = jsonschema.Draft202012Validator(schema)
    body = {"kind": "train", "model": digits_model["id"], "dataset": digits["id"], "params": {"epochs": 1},
            "data": {"batch_size": 64, "limit": None, "preprocess": {"scale": 0.0625, "layout": "nhwc"}},
            "task": "classification", "tags": {"team": "vision"}}
    assert list(checker.iter_errors(body)) == []
    assert list(checker.iter_errors({"kind": "train", "model": digits_model["id"]})) == []
    for wrong in ({"colour": "red"}, {"kind": "shrink"}, {"priority": "high"}, {"data": {"shuffle": True}}, {"model": None}):
        assert list(checker.iter_errors({**body, **wrong})) != [], wrong
        assert server.post("/v1/jobs", json={**body, **wrong}).status_code == 422


def test_the_parameters_of_every_kind_are_described(document):
    schemas = document["components"]["schemas"]
    for name in ("TrainParams", "EvaluateParams", "PruneParams", "PipelineParams"):
        assert schemas[name]["properties"], name
    assert json.dumps(schemas["Problem"]).count("pointer") or "FieldError" in schemas
