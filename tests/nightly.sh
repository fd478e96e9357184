#!/usr/bin/env bash
# The long versions of what tests/run.sh samples: more seeds, every unit test under the address sanitizer, ten
# minutes per fuzzer, and the demo on a bare Debian 12 made with debootstrap (as root; skipped otherwise).
set -uo pipefail
cd "$(dirname "$0")/.."

export TESSERA_TEST_SCALE="${TESSERA_TEST_SCALE:-50}"  # multiplies the number of random cases
export TESSERA_INTEGRATION_FULL=1  # minutes of overload, ten thousand disconnects, many windows
export TESSERA_COMPOSITIONS="${TESSERA_COMPOSITIONS:-10000}"  # batches whose logits must be equal bit for bit
export TESSERA_FUZZ_SECONDS="${TESSERA_FUZZ_SECONDS:-600}"
failed=0

tests/run.sh || failed=1

printf '\n== a million simulated lives\n'
build/release/bin/simulation_test --first 10001 --seeds "${TESSERA_SEEDS:-1000000}" || failed=1

printf '\n== every unit test under the address sanitizer\n'
cmake --build --preset asan >/dev/null &&
  LSAN_OPTIONS="suppressions=$PWD/tests/lsan-suppressions.txt" \
    ctest --test-dir build/asan --label-regex unit --output-on-failure --timeout 3600 || failed=1

printf '\n== the release tree packed, unpacked elsewhere and run there\n'
ctest --test-dir build/release --label-regex bundle --output-on-failure || failed=1

printf '\n== the chart installed into a real API server, which takes half an hour to build once\n'
/usr/bin/python3 -B tests/helm/cluster_test.py || failed=1

printf '\n== the demo on a bare machine\n'
if [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null; then
  tests/bare_machine.sh || failed=1
else
  echo "skipped: needs root and debootstrap"
fi
exit $failed
