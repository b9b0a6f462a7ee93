#!/bin/sh
# Takes the examples as a stranger would: copied out of this tree, built there, packed, installed and
# tested with `accel`. test.sh ACCEL REPOSITORY [VENV]; without VENV the one in Python is left out.
set -eu
accel=$1 repository=$2 venv=${3:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$repository/examples" "$work/examples"
cp -R "$repository/sdk/proto" "$work/proto"
export XDG_DATA_HOME="$work/data"
unset ACCEL_CONFIG ACCEL_HOSTS_INSTALLED ACCEL_BACKEND_PATH || true
cd "$work"

# check installs a packed backend, tests it as installed and removes it.
check() {
  name=$1 archive=$2
  "$accel" backends install "$archive"
  "$accel" backends test "$name"
  "$accel" backends list "$name"
  "$accel" backends remove "$name"
}

echo "== backend-go"
(cd examples/backend-go
 go mod edit -replace "github.com/accelhq/accel=$repository"
 export GOFLAGS="${GOFLAGS:-} -mod=mod" # what Accel requires now may be newer than what is written here
 go vet .
 mkdir "$work/tiny"
 CGO_ENABLED=0 go build -trimpath -o "$work/tiny/accel-backend-tiny" .)
lines=$(cat examples/backend-go/*.go | wc -l)
[ "$lines" -lt 150 ] || { echo "the smallest backend has $lines lines" >&2; exit 1; }
check tiny "$(examples/release/pack.sh tiny 0.1.0 "$(go env GOOS)/$(go env GOARCH)" tiny dist)"

[ -n "$venv" ] || { echo "== backend-python is left out: no environment of Python was given"; exit 0; }
echo "== backend-python"
examples/backend-python/setup.sh proto onnxruntime "$venv"
check onnxruntime "$(examples/release/pack.sh onnxruntime 0.1.0 any onnxruntime dist)"
