#!/bin/sh
# Packs a backend for `accel backends install`: pack.sh NAME VERSION PLATFORM FOLDER OUT
#   NAME      as in accel-backend-NAME, which FOLDER holds (accel-backend-NAME.exe for windows)
#   VERSION   of the backend
#   PLATFORM  Go's GOOS/GOARCH, such as linux/amd64, or any
#   FOLDER    holds the program and all that it needs; links are not packed
#   OUT       a folder, which gets accel-backend-NAME-VERSION-OS-ARCH.tar.gz and its .sha256
# API_MIN and API_MAX (both 1) are the protocol versions that the backend understands; LICENCE,
# HOMEPAGE and DESCRIPTION go into the manifest if they are set.
set -eu
name=$1 version=$2 platform=$3 folder=$4 out=$5
program=accel-backend-$name
case $platform in windows/*) program=$program.exe ;; esac
[ -x "$folder/$program" ] || { echo "$folder/$program is not there, or is not executable" >&2; exit 1; }
[ -z "$(find "$folder" -type l)" ] || { echo "$folder holds links, which Accel does not unpack" >&2; exit 1; }

top=accel-backend-$name-$version-$(echo "$platform" | tr / -)
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/$top"
cp -R "$folder/." "$work/$top/"
cd "$work/$top"
rm -f accel-backend.json

text() { printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g'; }
{
  printf '{\n  "schema": 1,\n  "name": "%s",\n  "version": "%s",\n' "$name" "$version"
  printf '  "api": {"min": %d, "max": %d},\n' "${API_MIN:-1}" "${API_MAX:-1}"
  printf '  "platform": "%s",\n  "program": "%s",\n' "$platform" "$program"
  [ -z "${DESCRIPTION:-}" ] || printf '  "description": "%s",\n' "$(text "$DESCRIPTION")"
  [ -z "${HOMEPAGE:-}" ] || printf '  "homepage": "%s",\n' "$(text "$HOMEPAGE")"
  [ -z "${LICENCE:-}" ] || printf '  "licence": "%s",\n' "$(text "$LICENCE")"
  printf '  "files": {'
  comma=
  find . -type f | LC_ALL=C sort | while read -r file; do
    sum=$({ sha256sum "$file" 2>/dev/null || shasum -a 256 "$file"; } | cut -d' ' -f1)
    printf '%s\n    "%s": "%s"' "$comma" "$(text "${file#./}")" "$sum"
    comma=,
  done
  printf '\n  }\n}\n'
} > "$work/manifest"
mv "$work/manifest" accel-backend.json

cd "$work"
tar -cf - "$top" | gzip -9n > "$out/$top.tar.gz"
cd "$out"
{ sha256sum "$top.tar.gz" 2>/dev/null || shasum -a 256 "$top.tar.gz"; } > "$top.tar.gz.sha256"
echo "$out/$top.tar.gz"
