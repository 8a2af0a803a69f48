#!/usr/bin/env bash
# From folders of spoken words to small networks, with curl alone: one on log-mel bands, one on samples, and a recurrent one.
# The first knows nearly all words in mild noise, so it gets louder noise, in which there is something to be taught.
# Each is trained, pruned to half of its multiply-accumulates while what it was teaches it, and
# teaches a student of a quarter of them or less; then the first is asked about a file.
#
#   cargo run --release -- serve          # in another terminal
#   examples/speech.sh
#
# SOUNDS    a folder train/WORD/*.wav, test/WORD/*.wav     spoken by espeak-ng (apt-get install espeak-ng)
# NOISY     the same in louder noise, for mel              SOUNDS where that is given
# MODELS    which of mel, wave and gru                     all three
# OUT       where results go                               ./speech-out
# BASE, SINTER_KEY                                         see client.sh
set -euo pipefail
shopt -s inherit_errexit

here=$(cd "$(dirname "$0")" && pwd)
source "$here/client.sh"
OUT=${OUT:-./speech-out}
MODELS=${MODELS:-mel wave gru}
mkdir -p "$OUT"

if [ -z "${SOUNDS:-}" ]; then
  SOUNDS=$OUT/sounds
  python3 "$here/words.py" "$SOUNDS" >&2
  NOISY=$OUT/noisy
  python3 "$here/words.py" "$NOISY" --below -6 4 >&2
fi
NOISY=${NOISY:-$SOUNDS}

upload_sounds() { # NAME FOLDER
  tar --create --sort=name --file "$OUT/$1.tar" --directory "$2" .
  echo "uploading $(du -h "$OUT/$1.tar" | cut -f1) of $1" >&2
  call -X POST "$BASE/v1/datasets?name=$1" -H 'Content-Type: application/x-tar' --data-binary "@$OUT/$1.tar" | field id
}
words=$(upload_sounds words "$SOUNDS")
noisy=$(upload_sounds words_in_noise "$NOISY")

# A second of each word: bands of 25 ms every 12.5 ms at 16 kHz, or samples at 8 kHz.
mel='{"batch_size": 32, "preprocess": {
  "audio": {"sample_rate": 16000, "n_fft": 400, "hop_length": 200, "n_mels": 40}, "mean": [-20], "std": [20]}}'
wave='{"batch_size": 32, "preprocess": {"audio": {"sample_rate": 8000}}}'

losses_at() { # TEMPERATURE
  printf '[{"name": "soft_targets", "temperature": %s, "weight": 0.5}, {"name": "cross_entropy", "weight": 0.5}]' "$1"
}

for name in $MODELS; do
  dataset=$words
  case $name in
    mel) dataset=$noisy data=$mel width=0.3 epochs=30 rate=0.003 losses=$(losses_at 2) after=(16 0.002) ;;
    # A teacher that is no better than its student would be by itself teaches it nothing.
    gru) data=$mel width=0.45 epochs=60 rate=0.004 losses=$(losses_at 2) after=(24 0.003) ;;
    *) data=$wave width=0.33 epochs=30 rate=0.003 losses=$(losses_at 4) after=(16 0.002) ;;
  esac
  fresh=$(upload_model "speech_$name" "$here/models/speech_$name.onnx")
  trained=$(run "$name-trained" "$(job train "$name trained" "$fresh" "$(tuning $epochs $rate), \"weights\": \"reinitialize\"}" "$data")")
  pruned=$(run "$name-pruned" "$(job prune "$name pruned" "$trained" \
    "{\"criterion\": \"taylor\", \"target\": {\"macs_ratio\": 0.5}, \"finetune\": $(tuning "${after[@]}")}, \"distill\": $losses}" "$data")")
  [ "$name" != mel ] || asked=$pruned
  run "$name-student" "$(job distill "$name student" "$trained" \
    "{\"student\": {\"width\": $width, \"weights\": \"reinitialize\"}, \"control\": true,
      \"losses\": $losses, \"finetune\": $(tuning 40 0.004)}}" "$data")" >/dev/null
done

file=$(find "$NOISY/test/seven" -name '*.wav' | sort | sed -n 1p)
if [ -n "${asked:-}" ]; then
  echo "what is $file?" >&2
  call -X POST "$BASE/v1/models/$asked/predict" -H 'Content-Type: audio/wav' --data-binary "@$file" -o "$OUT/prediction.json"
fi

python3 - "$OUT" $MODELS <<'PYTHON'
import json
import pathlib
import sys

out, models = pathlib.Path(sys.argv[1]), sys.argv[2:]
print("| model | MACs | parameters | accuracy | batch of 1, ms |\n| --- | ---: | ---: | ---: | ---: |")
for model in models:
    for step in ("trained", "pruned", "student"):
        result = json.loads((out / f"{model}-{step}" / "job.json").read_text())["result"]
        after = result["after"]
        print(f"| {model}, {step} | {after['macs']:,} | {after['parameters']:,} | {after['metrics']['accuracy']:.2%} "
              f"| {after['latency_ms']['p50']:.3f} |")
    control = result["distill"]["control"]["metrics"]["accuracy"]
    print(f"| {model}, the student without a teacher | | | {control:.2%} | |")
if (out / "prediction.json").exists():
    best = json.loads((out / "prediction.json").read_text())["top"][0][0]
    print(f"\nIt is `{best['class']}`, says the pruned model ({best['probability']:.0%} sure).")
PYTHON
echo "files are in $OUT" >&2
