"""The files in `docker/`: held against the real program, and tried with the tools that read them.

`SINTER_PROMTOOL` names promtool of Debian's package `prometheus`, which `tests/run` unpacks; the server `prometheus` stands
beside it. Both read the real `/metrics`, and every query of the dashboard is asked.
"""

import configparser
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import time

import pytest
import requests
import yaml

from conftest import DIGITS, DIGITS_CNN, ROOT, Server, clean_environment, run_sinter, sinter_binary
from lifecycle_tools import free_port

DOCKER = ROOT / "docker"
DASHBOARD = DOCKER / "grafana" / "dashboards" / "sinter.json"

# Beside drain_seconds: connections have so long to end, and the process a little more.
CLOSING_SECONDS = 6
# What the server itself may need beside the jobs, in bytes.
SERVER_BYTES = 1 << 30


def tool(name):
    """promtool or prometheus. A system without them can't run these tests, and that must not go unnoticed."""
    cache = pathlib.Path(os.environ.get("SINTER_TEST_CACHE", "~/.cache/sinter")).expanduser()
    named = os.environ.get("SINTER_PROMTOOL", cache / "prometheus" / "usr" / "bin" / "promtool")
    path = pathlib.Path(named).expanduser().with_name(name)
    if not path.exists():
        pytest.fail(f"{path} is not there; SINTER_PROMTOOL names promtool of Debian's package `prometheus`")
    return path


def promtool(*arguments, **options):
    """Runs promtool, requires success and returns what it said."""
    ended = subprocess.run([tool("promtool"), *map(str, arguments)], text=True, capture_output=True, timeout=120, check=False,
                           **options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def documents(name):
    return [document for document in yaml.safe_load_all((DOCKER / name).read_text()) if document is not None]


def dashboard_panels():
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def dashboard_queries():
    return [(panel["title"], target["expr"]) for panel in dashboard_panels() for target in panel["targets"]]


def alert_rules():
    return [rule for group in documents("alerts.yml")[0]["groups"] for rule in group["rules"]]


def names_in(text):
    """Metrics of Sinter that a query asks for."""
    return set(re.findall(r"\bsinter_[a-z_]+", text))


def create_key(data_dir, *arguments):
    made = run_sinter("key", "create", "--data-dir", data_dir, *arguments)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def seconds(text):
    assert (found := re.fullmatch(r"(\d+)s?", str(text))), text
    return int(found[1])


class Watched:
    """A server with keys, a Prometheus that has the repository's settings and a quicker pace, and some jobs."""

    def __init__(self, folder):
        self.folder = folder
        data = folder / "server" / "data"
        admin = create_key(data, "--name", "me", "--role", "admin")
        # As docs/deployment.md and compose.yaml make it.
        (folder / "metrics_key").write_text(
            create_key(data, "--name", "prometheus", "--role", "read", "--project", "monitoring"))
        self.server = Server(folder / "server", ["--webhooks-private", "true", "--webhook-retry-seconds", "1,1,1"], key=admin)
        self.port = free_port()
        self.prometheus = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        self.server.start().wait_ready()
        settings = (DOCKER / "prometheus.yml").read_text()
        for mine, theirs in (("sinter:8080", self.server.url.removeprefix("http://")),
                             ("/run/secrets/metrics_key", str(self.folder / "metrics_key")), ("15s", "500ms")):
            assert mine in settings
            settings = settings.replace(mine, theirs)
        (self.folder / "prometheus.yml").write_text(settings)
        shutil.copy(DOCKER / "alerts.yml", self.folder)
        promtool("check", "config", self.folder / "prometheus.yml")
        with (self.folder / "prometheus.log").open("w") as log:
            self.prometheus = subprocess.Popen(
                [tool("prometheus"), f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/tsdb",
                 f"--web.listen-address=127.0.0.1:{self.port}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __exit__(self, *_):
        if self.prometheus is not None:
            self.prometheus.kill()
            self.prometheus.wait(30)
        self.server.stop()

    def is_up(self):
        """Whether Prometheus answers; while it starts it says 503, or nothing."""
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/-/ready", timeout=10).status_code == 200
        except requests.RequestException:
            return False

    def ask(self, query):
        """What Prometheus answers now: labels and numbers."""
        answer = requests.post(f"http://127.0.0.1:{self.port}/api/v1/query", data={"query": query}, timeout=30)
        assert answer.status_code == 200, f"{query}: {answer.text}"
        return [(row["metric"], float(row["value"][1])) for row in answer.json()["data"]["result"]]

    def wait_until(self, query, wanted, timeout=180):
        """Waits until the sum of what Prometheus has of a query is as large."""
        deadline = time.monotonic() + timeout
        while True:
            seen = sum(value for _, value in self.ask(query)) if self.is_up() else -1
            if seen >= wanted:
                return
            log = (self.folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline, f"{query} is {seen}, not {wanted}\n{log[-3000:]}"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    with Watched(tmp_path_factory.mktemp("watched")) as watched:
        server = watched.server
        watched.wait_until('up{job="sinter"}', 1)
        data = server.upload_dataset(DIGITS)
        # Two of everything, with Prometheus looking in between: only a counter that grows has a rate.
        for count in (1, 2):
            model = server.upload_model(DIGITS_CNN)
            assert server.get("/v1/models/nothing").status_code == 404
            hook = {"url": f"http://127.0.0.1:{free_port()}/nobody"}
            server.run("prune", model, data, {"target": {"macs_ratio": 0.5}}, data={"preprocess": {"scale": 0.0625}},
                       webhook=hook)
            watched.wait_until("sinter_job_duration_seconds_count", count)
            watched.wait_until('sinter_delivery_attempts_total{outcome="failed"}', 2 * count)
        yield watched


@pytest.fixture(scope="module")
def sample_names(watched):
    """Every name that `/metrics` has."""
    text = watched.server.get("/metrics").text
    return {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}


@pytest.fixture(scope="module")
def settings():
    """Variables of all settings, by what the program says of itself."""
    said = run_sinter("serve", "--help").stdout
    variables = set(re.findall(r"\[env: (SINTER_[A-Z0-9_]+)", said))
    keys = set(re.findall(r"^([a-z_]+) = ", run_sinter("serve", "--print-default-config").stdout, re.M))
    assert {f"SINTER_{key.upper()}" for key in keys} == variables - {"SINTER_CONFIG"}
    return variables


# Metrics.


def test_promtool_has_no_complaint_about_the_metrics(watched):
    # promtool reads the form that came before OpenMetrics; the reference library writes it.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    class Page:
        def __init__(self, text):
            self.families = list(text_string_to_metric_families(text))

        def collect(self):
            return self.families

    registry = CollectorRegistry()
    registry.register(Page(watched.server.get("/metrics").text))
    assert promtool("check", "metrics", input=generate_latest(registry).decode()) == ""


def test_the_key_of_prometheus_may_read_numbers_and_nothing_else(watched):
    key = {"Authorization": f"Bearer {(watched.folder / 'metrics_key').read_text()}"}
    assert watched.server.get("/metrics", headers=key).status_code == 200
    assert requests.get(watched.server.url + "/metrics", timeout=30).status_code == 401
    for path in ("/v1/models", "/v1/datasets", "/v1/jobs"):
        assert watched.server.get(path, headers=key).json()["data"] == []
    assert watched.server.post("/v1/webhooks", headers=key, json={"url": "https://example.org"}).status_code == 403


def test_alerts_and_dashboard_ask_for_metrics_that_exist(sample_names):
    asked = {name for rule in alert_rules() for name in names_in(rule["expr"])}
    asked |= {name for _, query in dashboard_queries() for name in names_in(query)}
    assert asked <= sample_names


def test_the_dashboard_shows_every_metric(sample_names):
    shown = {name for _, query in dashboard_queries() for name in names_in(query)}
    assert sample_names == shown


def test_every_query_of_the_dashboard_has_an_answer(watched):
    silent = []
    for title, query in dashboard_queries():
        # Long enough for the jobs of the fixture on a slow machine: a quantile of what did not grow is none.
        asked = query.replace("$instance", ".*").replace("$__rate_interval", "10m")
        if not any(math.isfinite(value) for _, value in watched.ask(asked)):
            silent.append((title, query))
    assert not silent


def test_prometheus_runs_the_rules_and_no_alert_is_up_without_a_reason(watched):
    answer = requests.get(f"http://127.0.0.1:{watched.port}/api/v1/rules", timeout=30).json()
    rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in alert_rules()}
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert firing == set()


# Alerts.


def minutes(**series):
    """Series of a test of rules, sampled each minute."""
    return [{"series": name, "values": values} for name, values in series.items()]


UP = 'up{job="sinter", instance="a"}'
FAILED, DONE, QUEUED, RUNNING = (f'sinter_jobs{{instance="a", status="{status}"}}'
                                 for status in ("failed", "succeeded", "queued", "running"))
DEPTH = 'sinter_queue_depth{instance="a"}'
ALIVE, FREE = 'sinter_worker_alive{instance="a"}', 'sinter_disk_free_bytes{instance="a"}'


def requests_of(status, route="/v1/jobs", method="POST"):
    return f'sinter_http_requests_total{{instance="a", method="{method}", route="{route}", status="{status}"}}'


def buckets(name, values, labels=""):
    """A histogram by its bounds."""
    return {f'{name}_bucket{{instance="a"{labels}, le="{bound}"}}': counts for bound, counts in values.items()}


def deliveries(outcome):
    return f'sinter_delivery_attempts_total{{instance="a", target="mlflow", outcome="{outcome}"}}'


# Name, series, the alerts that fire, and after how many minutes these are looked at.
RULE_CASES = [
    ("a server that does well", {
        UP: "1x120", DEPTH: "2x120", RUNNING: "1x120", FAILED: "1x120", DONE: "0+1x120", requests_of(202): "0+1x120",
        requests_of(200, "/metrics", "GET"): "0+4x120", deliveries("accepted"): "0+1x120", deliveries("failed"): "0+1x120",
        **buckets("sinter_job_queue_seconds", {"60.0": "0+1x120", "3600.0": "0+1x120", "+Inf": "0+1x120"}),
        **buckets("sinter_http_request_duration_seconds", {"0.1": "0+9x120", "1.0": "0+9x120", "+Inf": "0+9x120"},
                  ', method="GET", route="/v1/jobs"'),
        **buckets("sinter_http_request_duration_seconds", {"0.1": "0x120", "30.0": "0+9x120", "+Inf": "0+9x120"},
                  ', method="GET", route="/v1/jobs/{id}"'),
    }, [], 120),
    ("a server that is away", {UP: "1x10 0x10"}, ["SinterDown"], 14),
    ("one that is away for a moment", {UP: "1x10 0 1x10"}, [], 12),
    ("one that begins anew all the time", {requests_of(200, "/metrics", "GET"): "1 2 3 1 2 3 1 2 3 1 2 3 4x60"},
     ["SinterRestarts"], 20),
    ("one that is updated twice", {requests_of(200, "/metrics", "GET"): "1 2 3 1 2 3 1 2 3 4x60"}, [], 20),
    ("workers that are silent", {ALIVE: "1x5 0x20"}, ["SinterNoWorker"], 12),
    ("workers that were silent for a moment", {ALIVE: "1x5 0 1x20"}, [], 12),
    ("a disk that fills up", {FREE: "1000000000-100000000x20"}, ["SinterDiskLow"], 15),
    ("a disk with room", {FREE: "9000000000-100000000x20"}, [], 15),
    ("hours of waiting", buckets("sinter_job_queue_seconds", {"3600.0": "0x120", "14400.0": "0+1x120", "+Inf": "0+1x120"}),
     ["SinterQueueWait"], 100),
    ("a job refused for the first time", {requests_of(429): "_x30 1x30"}, ["SinterQueueFull"], 33),
    ("and after that", {requests_of(429): "_x30 1x30"}, [], 55),
    ("half of the jobs failing", {FAILED: "0+1x90", DONE: "0+1x90"}, ["SinterJobsFail"], 80),
    ("few of the jobs failing", {FAILED: "0+1x90", DONE: "0+9x90"}, [], 80),
    ("jobs deleted", {FAILED: "90-1x90", DONE: "900-9x90"}, [], 80),
    ("processes dying", {'sinter_job_attempts_failed_total{instance="a"}': "0x20 0+1x20"}, ["SinterProcessesDie"], 35),
    ("the first upload that has no place", {requests_of(507, "/v1/models"): "_x30 1x30"}, ["SinterDiskFull"], 31),
    ("more of them", {requests_of(507, "/v1/models"): "1x30 2 3 4x30"}, ["SinterDiskFull"], 33),
    ("errors", {requests_of(500): "0+1x40", requests_of(202): "0+9x40"}, ["SinterErrors"], 30),
    ("an end with drained jobs", {requests_of(503, "/readyz", "GET"): "0+1x40", requests_of(202): "0+9x40"}, [], 30),
    ("slow looks", buckets("sinter_http_request_duration_seconds", {"1.0": "0x60", "5.0": "0+9x60", "+Inf": "0+9x60"},
                           ', method="GET", route="/v1/jobs"'), ["SinterSlow"], 50),
    ("MLflow down", {deliveries("accepted"): "5x100", deliveries("failed"): "0x20 0+1x80"}, ["SinterDeliveriesFail"], 60),
]


@pytest.fixture(scope="module")
def rule_test(tmp_path_factory):
    """What promtool is asked: every case, and of each whether each alert fires."""
    alerts = {rule["alert"]: rule for rule in alert_rules()}
    tests = []
    for name, series, expected, at in RULE_CASES:
        # The text of an alert is not compared, its presence is: ALERTS is a series like others.
        samples = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(expected)]
        tests.append({
            "name": name, "interval": "1m", "input_series": minutes(**series),
            "promql_expr_test": [{"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": f"{at}m",
                                  "exp_samples": samples}],
        })
    folder = tmp_path_factory.mktemp("rules")
    shutil.copy(DOCKER / "alerts.yml", folder)
    path = folder / "test.yml"
    # JSON is YAML.
    path.write_text(json.dumps({"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": tests}))
    assert {alert for _, _, expected, _ in RULE_CASES for alert in expected} == set(alerts)
    return path


def test_alerts_fire_when_they_should_and_not_otherwise(rule_test):
    promtool("test", "rules", rule_test)


def test_promtool_reads_the_rules():
    assert f"{len(alert_rules())} rules found" in promtool("check", "rules", DOCKER / "alerts.yml")


def test_every_alert_says_what_and_why_and_how_bad():
    for rule in alert_rules():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule
        assert set(rule["annotations"]) == {"summary", "description"}, rule


# The dashboard.


def test_the_panels_have_places_of_their_own_and_descriptions():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]


def test_the_dashboard_is_where_grafana_is_told_to_look():
    provider, = documents("grafana/provisioning/dashboards/sinter.yaml")[0]["providers"]
    source, = documents("grafana/provisioning/datasources/prometheus.yaml")[0]["datasources"]
    compose, = documents("compose.yaml")
    mounts = dict(mount.split(":")[:2] for mount in compose["services"]["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    variable, *_ = json.loads(DASHBOARD.read_text())["templating"]["list"]
    assert variable["current"]["value"] == source["uid"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in compose["services"]


# Compose, Kubernetes, systemd, the image.


def bytes_of(text):
    number, unit = re.fullmatch(r"(\d+)(|[kmgKMG]i?)", str(text)).groups()
    return int(number) << {"": 0, "k": 10, "m": 20, "g": 30}[unit[:1].lower()]


def default_of(text):
    """What `${NAME:-value}` is when nobody sets it."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", str(text))


def assert_memory_fits(variables, limit):
    """All jobs end before the container would, which takes the server with it."""
    jobs = int(variables["SINTER_WORKERS"]) * int(variables["SINTER_JOB_MEMORY_LIMIT"])
    assert jobs + SERVER_BYTES <= bytes_of(limit)


def drain_seconds():
    found = re.search(r"^drain_seconds = (\d+)", (ROOT / "sinter.default.toml").read_text(), re.M)
    return int(found[1])


def test_compose_sets_what_there_is(settings):
    compose, = documents("compose.yaml")
    sinter = compose["services"]["sinter"]
    variables = {name: default_of(value) for name, value in sinter["environment"].items()}
    assert set(variables) <= settings
    assert_memory_fits(variables, default_of(sinter["deploy"]["resources"]["limits"]["memory"]))
    assert seconds(sinter["stop_grace_period"]) >= drain_seconds() + CLOSING_SECONDS
    for name, service in compose["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["restart"] == "unless-stopped", name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert {"cpus", "memory", "pids"} == set(service["deploy"]["resources"]["limits"]), name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in compose["volumes"], mount
        assert name == "sinter" or "healthcheck" in service


def test_compose_pins_what_it_takes_from_others():
    compose, = documents("compose.yaml")
    pinned = (ROOT / "tests" / "requirements.txt").read_text()
    mlflow = compose["services"]["mlflow"]["build"]["dockerfile_inline"]
    version = re.search(r"mlflow==([\d.]+)", mlflow)[0]
    # The version that the tests of MLflow run with.
    assert version in pinned.split()
    for name in ("prometheus", "grafana"):
        assert re.search(r":v?\d+\.\d+\.\d+$", compose["services"][name]["image"]), name


def test_kubernetes_sets_what_there_is(settings):
    objects = {document["kind"]: document for document in documents("kubernetes.yaml")}
    assert {"Deployment", "PersistentVolumeClaim", "Service", "NetworkPolicy", "ServiceAccount"} == set(objects)
    deployment = objects["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    container, = pod["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert set(variables) <= settings
    assert container["args"] == ["serve"]
    # Two servers would want one data folder.
    assert deployment["replicas"] == 1 and deployment["strategy"] == {"type": "Recreate"}
    assert seconds(pod["terminationGracePeriodSeconds"]) >= drain_seconds() + CLOSING_SECONDS
    assert_memory_fits(variables, container["resources"]["limits"]["memory"])
    port, = container["ports"]
    assert variables["SINTER_LISTEN"].endswith(f":{port['containerPort']}")
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    claimed = {volume["name"]: volume for volume in pod["volumes"]}
    assert claimed["data"]["persistentVolumeClaim"]["claimName"] == objects["PersistentVolumeClaim"]["metadata"]["name"]
    places = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "data"]
    assert variables["SINTER_DATA_DIR"].startswith(places[0] + "/")
    labels = deployment["template"]["metadata"]["labels"]
    for selector in (deployment["selector"]["matchLabels"], objects["Service"]["spec"]["selector"],
                     objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]):
        assert selector.items() <= labels.items()


def test_kubernetes_keeps_to_the_restricted_profile():
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/
    deployment = next(document for document in documents("kubernetes.yaml") if document["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"]
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    allowed = {"persistentVolumeClaim", "emptyDir", "name"}
    assert all(set(volume) <= allowed for volume in pod["volumes"])


def test_the_probes_answer_without_a_key(watched):
    deployment = next(document for document in documents("kubernetes.yaml") if document["kind"] == "Deployment")
    container, = deployment["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        answer = requests.get(watched.server.url + container[probe]["httpGet"]["path"], timeout=30)
        assert answer.status_code == 200, probe


def read_unit():
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(DOCKER / "sinter.service")
    return unit


def test_the_unit_sets_what_there_is(settings):
    service = read_unit()["Service"]
    variables = dict(word.split("=", 1) for word in shlex.split(service["Environment"]))
    assert set(variables) <= settings
    assert variables["SINTER_DATA_DIR"] == f"/var/lib/{service['StateDirectory']}"
    assert service["WorkingDirectory"] == f"/etc/{service['ConfigurationDirectory']}"
    assert service["ExecStart"].split()[1:] == ["serve"]
    # All processes getting SIGTERM at once would end jobs without their checkpoints.
    assert service["KillMode"] == "mixed" and service["KillSignal"] == "SIGTERM"
    assert seconds(service["TimeoutStopSec"]) >= drain_seconds() + CLOSING_SECONDS
    assert service["ProtectSystem"] == "strict" and service["OOMPolicy"] == "continue"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="a system without systemd has no use for its unit")
def test_systemd_finds_the_unit_right_and_well_closed(tmp_path):
    # Where the program is here, since a program that isn't there is a fault.
    text = (DOCKER / "sinter.service").read_text().replace("/usr/local/bin/sinter", str(sinter_binary()))
    unit = tmp_path / "sinter-here.service"
    unit.write_text(text)
    for command in (["verify"], ["security", "--offline=true", "--threshold=15", "--no-pager"]):
        ended = subprocess.run(["systemd-analyze", *command, unit], text=True, capture_output=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def instructions():
    """The Dockerfile's lines with what continues them."""
    text = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text())
    return [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_sets_what_there_is(settings):
    variables = {word.split("=")[0] for name, rest in instructions() if name == "ENV" for word in shlex.split(rest)}
    assert variables and variables <= settings
    last = {name: rest for name, rest in instructions()}
    assert last["USER"] == "10001:10001" and last["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"]) == ["sinter", "serve"]


def test_the_image_knows_whether_the_server_is_well(watched):
    check, = (rest for name, rest in instructions() if name == "HEALTHCHECK")
    name, *arguments = json.loads(check.split("CMD", 1)[1])
    assert name == "sinter"
    command = [sinter_binary(), *arguments]
    port = watched.server.url.rsplit(":", 1)[1]
    for listen, healthy in ((f"0.0.0.0:{port}", True), (f"0.0.0.0:{free_port()}", False)):
        ended = subprocess.run(command, env=clean_environment({"SINTER_LISTEN": listen}), capture_output=True, timeout=60,
                               check=False)
        assert (ended.returncode == 0) == healthy, listen


def test_the_image_is_built_from_all_that_the_program_includes():
    let_in = [ROOT / line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    needed = [ROOT / name for name in ("Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "migrations", ".sqlx")]
    for source in (ROOT / "src").rglob("*.rs"):
        for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text()):
            needed.append((source.parent / name).resolve())
    assert len(needed) > 8
    for path in needed:
        assert path.exists() and any(path == place or place in path.parents for place in let_in), path


def test_commands_in_these_files_are_those_of_the_program():
    texts = [path.read_text() for path in DOCKER.rglob("*") if path.is_file()]
    texts.append((ROOT / "docs" / "deployment.md").read_text())
    helps = {}
    for text in texts:
        commands = r"\bsinter (serve|key create|key list|key revoke|backup|restore|check|health)\b([^\n`|>]*)"
        for command, rest in re.findall(commands, text):
            said = helps.setdefault(command, run_sinter(*command.split(), "--help").stdout)
            assert said, command
            for flag in re.findall(r"--[a-z][a-z-]*", rest):
                assert re.search(rf"{flag}\b", said), f"sinter {command} {rest}"
    assert {"key create", "backup", "restore", "check"} <= set(helps)


# The last stage of the image, without an engine.


def test_the_server_works_in_a_root_of_its_own_that_it_cannot_write_to():
    """Also for users that are not root: `docker/root.sh` takes a user namespace then, and fails where there is none."""
    ended = subprocess.run([DOCKER / "root.sh", sinter_binary()], env=clean_environment(), text=True, capture_output=True,
                           timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    # Nothing but the program, what Debian's own two packages have of it, and the names of a user.
    files = re.findall(r"^ +\d+  (/\S+)$", ended.stdout, re.M)
    assert "/usr/local/bin/sinter" in files and len(files) <= 8
    packages = set(re.findall(r"^  /\S+ \((.*)\)$", ended.stdout, re.M))
    assert packages <= {"libc6", "libgcc-s1"}
    assert "A job was done" in ended.stdout
    assert '"network":true' in ended.stdout
