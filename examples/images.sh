#!/usr/bin/env bash
# From a folder of pictures to a small classifier, with curl alone: trains a convolutional network on PNG files in
# folders named by class, prunes it to half of its multiply-accumulates while what it was teaches it, teaches a student of a fifth of them, and asks
# the result about a picture.
#
#   cargo run --release -- serve          # in another terminal
#   examples/images.sh
#
# PICTURES  a folder train/CLASS/*.png, test/CLASS/*.png   made out of Fashion-MNIST
#           (apt-get install dataset-fashion-mnist; needs Python with Pillow and NumPy)
# OUT       where results go                               ./images-out
# BASE, SINTER_KEY                                         see client.sh
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "$0")" && pwd)
source "$here/client.sh"
OUT=${OUT:-./images-out}
mkdir -p "$OUT"

if [ -z "${PICTURES:-}" ]; then
  PICTURES=$OUT/pictures
  python3 "$here/pictures.py" "$PICTURES"
fi
tar --create --sort=name --file "$OUT/pictures.tar" --directory "$PICTURES" .

echo "uploading $(du -h "$OUT/pictures.tar" | cut -f1) of pictures" >&2
dataset=$(call -X POST "$BASE/v1/datasets?name=pictures" -H 'Content-Type: application/x-tar' \
  --data-binary "@$OUT/pictures.tar" | field id)
fresh=$(upload_model fashion_cnn "$here/models/fashion_cnn.onnx")

trained=$(run trained "$(job train trained "$fresh" "$(tuning 10 0.002), \"weights\": \"reinitialize\"}")")
pruned=$(run pruned "$(job prune pruned "$trained" \
  "{\"criterion\": \"taylor\", \"target\": {\"macs_ratio\": 0.5}, \"finetune\": $(tuning 12 0.003)},
    \"distill\": [{\"name\": \"soft_targets\", \"temperature\": 2, \"weight\": 0.9}, {\"name\": \"cross_entropy\", \"weight\": 0.1}]}")")
run student "$(job distill student "$trained" \
  "{\"student\": {\"width\": 0.45, \"weights\": \"reinitialize\"}, \"control\": true,
    \"losses\": [{\"name\": \"decoupled\", \"temperature\": 2, \"beta\": 2, \"weight\": 0.5}, {\"name\": \"cross_entropy\"}],
    \"finetune\": $(tuning 20 0.003)}}")" >/dev/null

picture=$(find "$PICTURES/test" -name '*.png' | sort | sed -n 1p)
echo "what is $picture?" >&2
call -X POST "$BASE/v1/models/$pruned/predict" -H 'Content-Type: image/png' --data-binary "@$picture" \
  -o "$OUT/prediction.json"

python3 - "$OUT" <<'PYTHON'
import json
import pathlib
import sys

out = pathlib.Path(sys.argv[1])
results = {name: json.loads((out / name / "job.json").read_text())["result"] for name in ("trained", "pruned", "student")}
print("| model | MACs | parameters | accuracy | batch of 1, ms |\n| --- | ---: | ---: | ---: | ---: |")
for name, result in results.items():
    after = result["after"]
    print(f"| {name} | {after['macs']:,} | {after['parameters']:,} | {after['metrics']['accuracy']:.2%} "
          f"| {after['latency_ms']['p50']:.3f} |")
control = results["student"]["distill"]["control"]["metrics"]["accuracy"]
print(f"| the student without a teacher | | | {control:.2%} | |\n")
best = json.loads((out / "prediction.json").read_text())["top"][0][0]
print(f"It is a {best['class']}, says the pruned model ({best['probability']:.0%} sure).")
PYTHON
echo "files are in $OUT" >&2
