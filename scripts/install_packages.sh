#!/usr/bin/env bash
# Installs the packages of scripts/packages.txt that this Debian machine lacks. Touches nothing when none is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "install_packages.sh: this is not a Debian system. Install what corresponds to scripts/packages.txt yourself," \
       "then: cmake --preset release && cmake --build build/release" >&2
  exit 1
fi

missing=()
while read -r package _; do
  case $package in '' | '#'*) continue ;; esac
  status=$(dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null || true)
  grep -qx installed <<<"$status" || missing+=("$package")
done <scripts/packages.txt

if [ ${#missing[@]} -eq 0 ]; then
  echo "packages: all there, nothing to install"
  exit 0
fi
echo "packages: installing ${missing[*]}"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_packages.sh: installing needs root, and there is no sudo here. As root, run:" >&2
    echo "  apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
