# What the walk-throughs have in common; to be sourced by them.
#
# BASE        where Sinter listens                       http://127.0.0.1:8080
# SINTER_KEY  an API key, where the server wants one
# OUT         where results go; each script has its own default
BASE=${BASE:-http://127.0.0.1:8080}

# The key goes to curl through a file descriptor, not its arguments, which other users can list.
call() {
  local settings=""
  if [ -n "${SINTER_KEY:-}" ]; then
    settings="header = \"Authorization: Bearer ${SINTER_KEY}\""
  fi
  curl --config <(printf '%s\n' "$settings") --silent --show-error --fail-with-body "$@"
}

# field a.b.c: the value at that place of the JSON on standard input; nothing for null.
field() {
  python3 -c '
import json, sys
value = json.load(sys.stdin)
for key in sys.argv[1].split("."):
    value = value[key] if value is not None else None
print("" if value is None else value)' "$1"
}

upload_model() { # NAME FILE: prints the id
  call -X POST "$BASE/v1/models?name=$1" \
    -H 'Content-Type: application/octet-stream' --data-binary "@$2" | field id
}

# follow NAME ID: waits for the end of a job and keeps its JSON.
follow() {
  local name=$1 id=$2 status
  while true; do
    call "$BASE/v1/jobs/$id" -H 'Prefer: wait=30' -o "$OUT/$name/job.json"
    status=$(field status <"$OUT/$name/job.json")
    case $status in
      succeeded) echo "  $name: succeeded" >&2; return ;;
      failed | canceled)
        echo "  $name: $status" >&2
        field error <"$OUT/$name/job.json" >&2
        return 1 ;;
      *) echo "  $name: $status $(python3 -c '
import json, sys
progress = json.load(sys.stdin).get("progress") or {}
print("%.0f %% %s" % (100 * progress.get("fraction", 0), progress.get("phase", "")))' \
        <"$OUT/$name/job.json")" >&2 ;;
    esac
  done
}

# run NAME BODY: submits a job, waits, downloads what it made and prints the new model's id.
run() {
  local name=$1 body=$2 id artifact
  mkdir -p "$OUT/$name"
  id=$(call -X POST "$BASE/v1/jobs" -H 'Content-Type: application/json' -d "$body" | field id)
  follow "$name" "$id"
  for artifact in model.onnx report.html report.json metrics.csv; do
    call "$BASE/v1/jobs/$id/artifacts/$artifact" -o "$OUT/$name/$artifact"
  done
  field result.model <"$OUT/$name/job.json"
}

# job KIND NAME MODEL PARAMS [DATA]: the body of a job on the data set $dataset.
job() {
  printf '{"kind": "%s", "name": "%s", "model": "%s", "dataset": "%s", "params": %s, "data": %s}' \
    "$1" "$2" "$3" "$dataset" "$4" "${5:-{\}}"
}

# tuning EPOCHS RATE: the beginning of the parameters of a training, without the last brace.
tuning() {
  printf '{"epochs": %s, "optimizer": {"name": "adamw", "learning_rate": %s, "weight_decay": 0.01}' "$1" "$2"
}
