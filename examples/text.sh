#!/usr/bin/env bash
# From two CSV files of texts to a small transformer, with curl alone: trains an encoder of two layers to tell nine languages
# apart, prunes it to half of its multiply-accumulates while what it was teaches it, teaches a student of a quarter of them,
# and asks the result about a sentence.
#
#   cargo run --release -- serve          # in another terminal
#   examples/text.sh
#
# TEXTS     a folder with train.csv and test.csv, columns `text` and `language`      made out of Debian's manual pages
#           (apt-get install manpages manpages-{da,de,es,fr,it,nl,pl,ro}; MAN says where they are)
# OUT       where results go                                                         ./text-out
# BASE, SINTER_KEY                                                                   see client.sh
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "$0")" && pwd)
source "$here/client.sh"
OUT=${OUT:-./text-out}
mkdir -p "$OUT"

if [ -z "${TEXTS:-}" ]; then
  TEXTS=$OUT/texts
  python3 "$here/manpages.py" "$TEXTS" --man "${MAN:-/usr/share/man}" >&2
fi

echo "uploading texts with their tokenizer" >&2
dataset=$(call -X POST "$BASE/v1/datasets?name=snippets" -F "file=@$TEXTS/train.csv" -F "file=@$TEXTS/test.csv" \
  -F "file=@$here/models/language_tokenizer.json;filename=tokenizer.json" | field id)
fresh=$(upload_model language_encoder "$here/models/language_encoder.onnx")

trained=$(run trained "$(job train trained "$fresh" "$(tuning 8 0.002), \"weights\": \"reinitialize\"}")")
pruned=$(run pruned "$(job prune pruned "$trained" \
  "{\"criterion\": \"taylor\", \"target\": {\"macs_ratio\": 0.5}, \"finetune\": $(tuning 6 0.001)},
    \"distill\": [{\"name\": \"soft_targets\", \"temperature\": 2, \"weight\": 0.9}, {\"name\": \"cross_entropy\", \"weight\": 0.1}]}")")
run student "$(job distill student "$trained" \
  "{\"student\": {\"width\": 0.4, \"weights\": \"reinitialize\"}, \"control\": true,
    \"losses\": [{\"name\": \"soft_targets\", \"temperature\": 2, \"weight\": 0.9}, {\"name\": \"cross_entropy\", \"weight\": 0.1}],
    \"finetune\": $(tuning 8 0.003)}}")" >/dev/null

sentence="Il programma legge una riga dal file e la scrive"
call -X POST "$BASE/v1/models/$pruned/predict" -H 'Content-Type: text/plain' --data-binary "$sentence" -o "$OUT/prediction.json"

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
print(f"The sentence is in `{best['class']}`, says the pruned model ({best['probability']:.0%} sure).")
PYTHON
echo "files are in $OUT" >&2
