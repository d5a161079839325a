#!/usr/bin/env bash
# From a bare Debian 12 to a tested build: installs what is missing, builds everything, runs the whole test suite.
# Arguments go to ctest: scripts/test.sh -L fast
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/install_packages.sh
scripts/build.sh
# Tests run side by side: OpenMP threads that spin while they wait would take each other's cores.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
ctest --test-dir build/release --output-on-failure --parallel "$(nproc)" "$@"
