#!/usr/bin/env bash
# What the last stage of the Dockerfile makes, without an engine: a folder that holds the program, the shared libraries that
# it needs and nothing else. The server then runs in it as its root, with the image's user and environment, unable to write
# to anything but the data folder, while one small job goes its whole way over HTTP.
#
#   docker/root.sh path/to/sinter [FOLDER]      # the folder is kept when it is named; it must not be there yet
#
# Linux with util-linux, curl and binutils. Root is not needed where the kernel lets users have namespaces of their own.
set -euo pipefail

binary="$(realpath -- "${1:?usage: docker/root.sh BINARY [FOLDER]}")"
here="$(cd "$(dirname -- "$0")/.." && pwd)"
work="$(mktemp --directory)"
root="${2:-$work/root}"
data="$work/data"
user=10001
server=""

fail() { echo "docker/root.sh: $*" >&2; exit 1; }

clean() {
  status=$?
  # The end of unshare is that of everything in its namespace.
  if [ -n "$server" ]; then kill -KILL "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  if [ "$status" -ne 0 ] && [ -s "$work/log" ]; then tail -n 30 "$work/log" >&2; fi
  rm -rf -- "$work"
  exit "$status"
}
trap clean EXIT

[ -x "$binary" ] || fail "$binary is no program"
[ ! -e "$root" ] || fail "$root is there already"

# --- The root -------------------------------------------------------------------------------------------------------------

mkdir -p "$root"/{data,dev,etc/sinter,proc,tmp,usr/local/bin}
root="$(realpath -- "$root")"
# Debian's folders, so that libraries are found where they are named.
for folder in lib lib64; do
  [ ! -L "/$folder" ] || { mkdir -p "$root/usr/$folder"; ln -s "usr/$folder" "$root/$folder"; }
done
printf 'sinter:x:%s:%s::/data:/usr/sbin/nologin\n' "$user" "$user" > "$root/etc/passwd"
printf 'sinter:x:%s:\n' "$user" > "$root/etc/group"
install -m 0755 "$binary" "$root/usr/local/bin/sinter"
strip "$root/usr/local/bin/sinter"

# The package of a file, under the name that dpkg knows it by.
package() {
  local path
  for path in "$1" "$(realpath -- "$1")" "${1#/usr}"; do
    if dpkg-query --search "$path" 2>/dev/null | cut -d: -f1; then return; fi
  done
  echo "no package"
}

echo "Needed by the program:"
missing="$(ldd "$binary" | grep 'not found' || true)"
[ -z "$missing" ] || fail "this system lacks $missing"
while read -r library; do
  install -D -m 0755 "$(realpath -- "$library")" "$root$library"
  printf '  %s (%s)\n' "$library" "$(package "$library")"
done < <(ldd "$binary" | grep -o '/[^ ]*')
# Places for devices, which are files of the system.
for device in null zero random urandom; do : > "$root/dev/$device"; done

echo "In the root, bytes and names:"
(cd "$root" && find . -type f -size +0 -printf '%10s  /%P\n' | sort -k 2)
total="$(find "$root" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')"
echo "Together: $total bytes"

# --- What runs in it ------------------------------------------------------------------------------------------------------

mkdir -m 0700 "$data"
if [ "$(id -u)" -eq 0 ]; then
  chown "$user:$user" "$data"
  # The folder of mktemp is root's alone, and the server's user has to pass it.
  chmod 0711 "$work"
  own=()
  become="--setgid=$user --setuid=$user"
else
  own=(--user --map-root-user)
  # Whoever called is the server's user inside.
  become="--user --map-user=$user --map-group=$user"
fi

# Runs a command of the program in the root, in namespaces of its own for mounts and processes, of which it is the first.
# shellcheck disable=SC2016 # The inner shell's variables.
enter() {
  exec unshare "${own[@]}" --mount --pid --fork --kill-child -- bash -euc '
    root=$1 data=$2 become=$3
    shift 3
    mount --bind "$root" "$root"
    mount --bind "$data" "$root/data"
    mount -o remount,bind,nosuid,nodev,noexec "$root/data"
    mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
    for device in null zero random urandom; do mount --bind "/dev/$device" "$root/dev/$device"; done
    mount -o remount,bind,ro,nosuid,nodev "$root"
    exec env --ignore-environment HOME=/data SINTER_LISTEN=0.0.0.0:0 SINTER_DATA_DIR=/data \
      setpriv --no-new-privs unshare $become --root="$root" --wd=/etc/sinter -- /usr/local/bin/sinter "$@"
  ' enter "$root" "$data" "$become" "$@"
}

# Without a key a server that others reach must not start.
if (enter serve) > "$work/refused" 2>&1; then fail "it started without a key"; fi
grep -q 'sinter key create' "$work/refused" || fail "it did not say how a key is made: $(cat "$work/refused")"

key="$( (enter key create --name root --role admin) 2> "$work/log" )"
[[ $key == sinter_* ]] || fail "no key: $key"

(enter serve) > "$work/says" 2> "$work/log" &
server=$!
for _ in $(seq 1200); do
  [ ! -s "$work/says" ] || break
  kill -0 "$server" 2>/dev/null || fail "the server ended"
  sleep 0.05
done
port="$(grep -o '[0-9]*$' "$work/says")" || fail "the server does not say where it listens"
url="http://127.0.0.1:$port"

# `ask METHOD PATH …` prints the answer's body; what is no success ends this script.
ask() {
  local method="$1" path="$2"
  shift 2
  curl --silent --show-error --fail-with-body --max-time 60 --request "$method" "$url$path" \
    --header "Authorization: Bearer $key" "$@"
}

# The first text of a name in JSON.
field() {
  [[ $2 =~ \"$1\":\"([^\"]*)\" ]] || fail "there is no $1 in $2"
  echo "${BASH_REMATCH[1]}"
}

for _ in $(seq 1200); do
  ! ask GET /readyz > /dev/null 2>&1 || break
  sleep 0.05
done
ask GET /readyz > "$work/ready" || fail "not ready: $(cat "$work/ready")"

# --- Is it as confined as it should be? -----------------------------------------------------------------------------------

inner="$(tr -d ' ' < "/proc/$server/task/$server/children")"
about() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$inner/status"; }
mounted() { awk -v place="$1" '$5 == place { split($6, flags, ","); seen = flags[1] } END { print seen }' "/proc/$inner/mountinfo"; }
if [ "$(id -u)" -eq 0 ]; then
  [ "$(about Uid)" = "$user" ] || fail "it runs as $(about Uid)"
fi
[ "$(about NoNewPrivs)" = 1 ] || fail "it could get new privileges"
[ "$(about CapEff)" = 0000000000000000 ] || fail "it has capabilities: $(about CapEff)"
[ "$(mounted /)" = ro ] || fail "its root is $(mounted /)"
[ "$(mounted /data)" = rw ] || fail "its data folder is $(mounted /data)"
[ "$(curl --silent --output /dev/null --write-out '%{http_code}' "$url/v1/jobs")" = 401 ] || fail "it answers without a key"

# --- One job --------------------------------------------------------------------------------------------------------------

model="$(field id "$(ask POST '/v1/models?name=digits' --data-binary "@$here/examples/models/digits_cnn.onnx" \
  --header 'Content-Type: application/octet-stream')")"
dataset="$(field id "$(ask POST '/v1/datasets?name=digits' --data-binary "@$here/examples/data/digits.npz" \
  --header 'Content-Type: application/octet-stream')")"
job="$(field id "$(ask POST /v1/jobs --header 'Content-Type: application/json' --data '{
  "kind": "prune", "model": "'"$model"'", "dataset": "'"$dataset"'",
  "params": {"target": {"macs_ratio": 0.5}}, "data": {"preprocess": {"scale": 0.0625}}}')")"
for _ in $(seq 4); do
  state="$(ask GET "/v1/jobs/$job" --header 'Prefer: wait=15')"
  status="$(field status "$state")"
  case "$status" in queued | running) ;; *) break ;; esac
done
[ "$status" = succeeded ] || fail "the job is $status: $state"
ask GET "/v1/jobs/$job/artifacts/model.onnx" --output "$work/smaller.onnx"
before="$(stat --format=%s "$here/examples/models/digits_cnn.onnx")"
after="$(stat --format=%s "$work/smaller.onnx")"
[ "$after" -lt "$before" ] || fail "$after bytes of $before are left"
# It is a model that the server takes.
ask POST '/v1/models?name=smaller' --data-binary "@$work/smaller.onnx" \
  --header 'Content-Type: application/octet-stream' > "$work/again" || fail "$(cat "$work/again")"
echo "A job was done: $before bytes of a model became $after"
[[ $state =~ \"sandbox\":(\{[^\}]*\}) ]] && echo "Its process was kept from network and files: ${BASH_REMATCH[1]}"

# --- And its end ----------------------------------------------------------------------------------------------------------

kill -TERM "$inner"
wait "$server" || fail "the server ended with status $?"
server=""
(enter check) > "$work/check" 2>&1 || fail "$(cat "$work/check")"
echo "Check: $(cat "$work/check")"
