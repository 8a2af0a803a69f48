"""Schemathesis, which makes requests of the OpenAPI document, right ones and wrong ones, one by one and in chains: no 5xx,
no answer that the document does not know."""

import os
import pathlib
import subprocess
import sys

from conftest import Server, often
from test_access import new_key

# What its checks ask for and this API does not promise:
# - positive_data_acceptance: a body that fits the schema may still name a model that is not there, or contradict itself;
# - missing_required_header: no header is required by the document.
EXCLUDED = "positive_data_acceptance,missing_required_header"

HOOKS = pathlib.Path(__file__).with_name("schemathesis_hooks.py")


def test_no_request_that_the_document_leads_to_breaks_a_promise(tmp_path):
    with Server(tmp_path) as server:
        server.wait_ready()
        program = pathlib.Path(sys.executable).parent / "schemathesis"
        ran = subprocess.run(
            [program, "run", server.url + "/openapi.json", "--checks", "all", "--exclude-checks", EXCLUDED,
             "--max-examples", str(often(6, 200)), "--seed", "1", "--generation-deterministic", "--no-color",
             "--request-timeout", "60", "--header", f"Authorization: Bearer {new_key(server)}"],
            capture_output=True, text=True, timeout=3600, check=False, cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS)})
        assert ran.returncode == 0, ran.stdout[-12_000:] + ran.stderr[-2000:]
        assert server.is_healthy()
        assert " 500 " not in server.log() and "panicked" not in server.log()
