#!/usr/bin/env bash
# Everything that is tested, from clean if need be: installs what is missing, builds, checks the house rules,
# runs unit and integration tests, ten thousand simulated lives, the sanitizers, and a short fuzz. Ends with a table
# of minutes per stage.
#
#   tests/run.sh                   all stages
#   tests/run.sh unit integration  only these (release is built first)
#   tests/run.sh --list            the stages
set -uo pipefail
cd "$(dirname "$0")/.."

readonly STAGES=(install build unit integration deploy simulation cuda asan tsan clang fuzz)
readonly FUZZ_SECONDS="${TESSERA_FUZZ_SECONDS:-15}"
readonly JOBS="${TESSERA_JOBS:-$(nproc)}"

# The sanitizers run what has threads, raw memory or hostile input; the rest is built by `clang`.
readonly ASAN_TESTS=(base_test models_test kernels_cpu_test worker_test worker_comm_test worker_sampler_test
                     coordinator_text_test coordinator_kv_test coordinator_sched_test coordinator_sim_test
                     coordinator_engine_test coordinator_cluster_test coordinator_tenants_test
                     coordinator_api_test)
readonly TSAN_TESTS=(kernels_cpu_test coordinator_engine_test coordinator_tenants_test)

readonly CUDA_TARGETS=(gpu_test tessera-worker tessera-kernels-bench tessera-comm-bench)

usage() { sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; }

selected=()
for argument in "$@"; do
  case "$argument" in
    --list) printf '%s\n' "${STAGES[@]}"; exit 0 ;;
    -h|--help) usage; exit 0 ;;
    *)
      if [[ " ${STAGES[*]} " != *" $argument "* ]]; then
        echo "run.sh: no stage is called $argument; there are: ${STAGES[*]}" >&2
        exit 2
      fi
      selected+=("$argument") ;;
  esac
done
[ ${#selected[@]} -gt 0 ] || selected=("${STAGES[@]}")

# Quiet unless it fails.
quietly() {
  local log
  log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then tail -n 60 "$log"; rm -f "$log"; return 1; fi
  rm -f "$log"
}
configure() { quietly cmake --preset "$1"; }
build() { quietly cmake --build --preset "$1" --parallel "$JOBS" "${@:2}"; }
run_ctest() { ctest --test-dir "build/$1" --output-on-failure --parallel "$JOBS" "${@:2}"; }
minutes() { awk -v seconds="$1" 'BEGIN { printf "%.1f", seconds / 60 }'; }
exactly() { local IFS='|'; echo "^($*)\$"; }

stage_install() { deploy/install-deps.sh --browser; }
stage_build() { configure release && build release; }
stage_unit() { run_ctest release --label-regex unit; }
stage_integration() { ctest --test-dir build/release --output-on-failure --label-regex integration; }
# The chart and the images without a cluster or a container engine. The first run builds Helm, which takes minutes; without
# Go the chart's tests say that they were skipped.
stage_deploy() { ctest --test-dir build/release --output-on-failure --label-regex deploy; }
# Prints how many lives were lived, how fast, and which planted bugs were found by what.
stage_simulation() { ctest --test-dir build/release --verbose --label-regex simulation; }
# Compiles and links everything for the GPU; without one the GPU's tests skip, the others run.
stage_cuda() {
  local nvcc="${TESSERA_CUDA_ROOT:-/opt/tessera/cuda}/nvidia/cu13/bin/nvcc"
  if ! command -v nvcc >/dev/null && [ ! -x "$nvcc" ]; then
    echo "skipped: no CUDA compiler; deploy/install-deps.sh --cuda installs one"
    return 0
  fi
  configure cuda && build cuda --target "${CUDA_TARGETS[@]}" && run_ctest cuda --label-regex gpu
}
stage_asan() {
  configure asan && build asan --target "${ASAN_TESTS[@]}" &&
    LSAN_OPTIONS="suppressions=$PWD/tests/lsan-suppressions.txt" \
      run_ctest asan --tests-regex "$(exactly "${ASAN_TESTS[@]}")"
}
stage_tsan() {
  configure tsan && build tsan --target "${TSAN_TESTS[@]}" &&
    TSAN_OPTIONS="suppressions=$PWD/tests/tsan-suppressions.txt" \
      run_ctest tsan --tests-regex "$(exactly "${TSAN_TESTS[@]}")"
}
stage_clang() { configure fuzz && build fuzz --target tessera-coordinator tessera-worker; }
stage_fuzz() {
  configure fuzz && build fuzz --target fuzzers || return 1
  local fuzzer
  for fuzzer in build/fuzz/bin/fuzz_*; do
    echo "$(basename "$fuzzer"): $FUZZ_SECONDS s"
    quietly "$fuzzer" -max_total_time="$FUZZ_SECONDS" -rss_limit_mb=2048 -timeout=10 \
      -artifact_prefix=build/fuzz/ || return 1
  done
}

passed=0
failed=0
table=""
for stage in "${selected[@]}"; do
  printf '\n== %s\n' "$stage"
  begun=$SECONDS
  if "stage_$stage"; then verdict=passed; passed=$((passed + 1)); else verdict=FAILED; failed=$((failed + 1)); fi
  table+=$(printf '%-12s %6.1f min  %s' "$stage" "$(minutes $((SECONDS - begun)))" "$verdict")$'\n'
  # Nothing can be said about a tree that does not build.
  if [ "$verdict" = FAILED ] && [[ "$stage" == install || "$stage" == build ]]; then break; fi
done

printf '\n%s' "$table"
printf '%-12s %6.1f min\n' total "$(minutes "$SECONDS")"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
