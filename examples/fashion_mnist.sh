#!/usr/bin/env bash
# Trains and prunes two networks on Fashion-MNIST through a running Sinter, with curl alone.
#
#   cargo run --release -- serve          # in another terminal
#   examples/fashion_mnist.sh
#
# BASE      where Sinter listens                       http://127.0.0.1:8080
# DATA      folder of the four IDX files               /usr/share/datasets/fashion-mnist
#           (apt-get install dataset-fashion-mnist)
# OUT       where results go                           ./fashion-out
# EPOCHS, DEVICE                                       6, auto
# SINTER_KEY  an API key, where the server wants one
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "$0")" && pwd)
source "$here/client.sh"
DATA=${DATA:-/usr/share/datasets/fashion-mnist}
OUT=${OUT:-./fashion-out}
EPOCHS=${EPOCHS:-6}
DEVICE=${DEVICE:-auto}

# job KIND NAME MODEL PARAMS: the body of a job.
job() {
  printf '{"kind": "%s", "name": "%s", "model": "%s", "dataset": "%s", "device": "%s", %s}' \
    "$1" "$2" "$3" "$dataset" "$DEVICE" \
    "\"data\": {\"batch_size\": 64}, \"tags\": {\"example\": \"fashion\"}, \"params\": $4"
}

mkdir -p "$OUT"
echo "uploading Fashion-MNIST from $DATA" >&2
dataset=$(call -X POST "$BASE/v1/datasets?name=fashion-mnist" \
  -F "file=@$DATA/train-images-idx3-ubyte.gz" \
  -F "file=@$DATA/train-labels-idx1-ubyte.gz" \
  -F "file=@$DATA/t10k-images-idx3-ubyte.gz" \
  -F "file=@$DATA/t10k-labels-idx1-ubyte.gz" | field id)

# finetune EPOCHS RATE: the fine-tuning of a pruning.
finetune() {
  printf '{"epochs": %s, "optimizer": {"name": "adamw", "learning_rate": %s}}' "$1" "$2"
}

for network in fashion_cnn fashion_resnet; do
  echo "$network" >&2
  case $network in
    fashion_cnn)
      channel_steps=2 channel_tuning=$(finetune 4 0.001)
      weight_steps=4 weight_tuning=$(finetune 4 0.001) ;;
    fashion_resnet)
      # Of the small network few weights can be spared: they go in more steps, with more training.
      channel_steps=1 channel_tuning=$(finetune 5 0.002)
      weight_steps=5 weight_tuning=$(finetune 15 0.003) ;;
  esac
  fresh=$(upload_model "$network" "$here/models/$network.onnx")
  trained=$(run "$network-trained" "$(job train "$network-trained" "$fresh" \
    "{\"weights\": \"reinitialize\", \"epochs\": $EPOCHS,
      \"optimizer\": {\"name\": \"adamw\", \"learning_rate\": 0.002, \"weight_decay\": 0.01},
      \"schedule\": {\"name\": \"cosine\", \"warmup_fraction\": 0.05}}")")
  run "$network-channels" "$(job prune "$network-channels" "$trained" \
    "{\"granularity\": \"channel\", \"criterion\": \"magnitude\", \"scope\": \"global\",
      \"target\": {\"macs_ratio\": 0.5}, \"schedule\": {\"steps\": $channel_steps},
      \"finetune\": $channel_tuning}")" >/dev/null
  run "$network-weights" "$(job prune "$network-weights" "$trained" \
    "{\"granularity\": \"weight\", \"criterion\": \"magnitude\", \"scope\": \"global\",
      \"target\": {\"sparsity\": 0.9}, \"schedule\": {\"steps\": $weight_steps, \"curve\": \"cubic\"},
      \"finetune\": $weight_tuning}")" >/dev/null
done

python3 - "$OUT" <<'PYTHON'
import json
import pathlib
import sys

out = pathlib.Path(sys.argv[1])
columns = ["model", "parameters", "nonzero", "MACs", "file, bytes", "deflated, bytes",
           "p50, ms", "accuracy", "training, examples/s"]


def row(name, job):
    after, training = job["result"]["after"], job["result"].get("training") or {}
    latency = after.get("latency_ms") or {}
    accuracy = after["metrics"].get("accuracy")
    speed = training.get("examples_per_second")
    return [
        name,
        f"{after['parameters']:,}",
        f"{after['nonzero_parameters']:,}",
        f"{after['macs']:,}" if after["macs"] is not None else "",
        f"{after['size_bytes']:,}",
        f"{after['compressed_bytes']:,}",
        f"{latency['p50']:.3f}" if latency else "",
        f"{accuracy:.4f}" if accuracy is not None else "",
        f"{speed:,.0f}" if speed else "",
    ]


print("| " + " | ".join(columns) + " |")
print("| --- |" + " ---: |" * (len(columns) - 1))
for network in ("fashion_cnn", "fashion_resnet"):
    for kind in ("trained", "channels", "weights"):
        name = f"{network}-{kind}"
        job = json.loads((out / name / "job.json").read_text())
        print("| " + " | ".join(row(name, job)) + " |")
PYTHON
echo "files are in $OUT" >&2
