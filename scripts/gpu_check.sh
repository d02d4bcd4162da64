#!/usr/bin/env bash
# Builds in place, tests and measures on a machine with a GPU, in one go and without a network:
#
#     scripts/gpu_check.sh OUT
#
# OUT receives a log per stage, benchmarks.json and summary.txt. A stage that fails does not stop the next one; the exit
# status says whether any did. PYTHON names an interpreter that has PyTorch (default: python3). GPU_CHECK_SECONDS is how
# long all of it may take (default: 460); benchmarks that do not fit in what is left are listed as not run.
set -uo pipefail

out=${1:?usage: scripts/gpu_check.sh OUT}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python3}
budget=${GPU_CHECK_SECONDS:-460}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
summary="$out/summary.txt"
: >"$summary"
failed=0

report() { printf '%-8s %-40s %5ss\n' "$1" "$2" "$3" | tee -a "$summary"; }

# stage NAME LOG SECONDS COMMAND...: runs the command, at most that long and never beyond the budget.
stage() {
  local name=$1 log=$out/$2 limit=$3 start=$SECONDS left status
  shift 3
  left=$((budget - SECONDS))
  if ((left < 10)); then
    report "NOT RUN" "$name" 0
    return
  fi
  printf '\n=== %s\n' "$name" | tee -a "$log"
  timeout --kill-after=10 $((limit < left ? limit : left)) "$@" >>"$log" 2>&1
  status=$?
  if ((status == 0)); then
    report PASS "$name" $((SECONDS - start))
  else
    failed=1
    tail -n 25 "$log"
    report FAIL "$name (exit status $status)" $((SECONDS - start))
  fi
}

# The functions below run under `timeout`, each in a shell of its own.

# Tests that a selection leaves empty have not failed.
run_pytest() {
  local status
  # shellcheck disable=SC2086  # several words
  "$python" -m pytest -p no:cacheprovider -q $workers "$@"
  status=$?
  ((status == 5)) && return 0
  return $status
}

environment() {
  nvidia-smi
  "$python" -c 'import sys, torch, triton; print(sys.version, torch.__version__, torch.version.cuda, triton.__version__)'
  "$python" -c 'import torch; print(torch.cuda.get_device_properties(0))'
}

build() {
  export VDM_CUDA=1 VDM_NATIVE=1
  "$python" -m pip install --no-index --no-build-isolation --no-deps --editable . ||
    "$python" setup.py build_ext --inplace || return
  "$python" - <<'PYTHON'
import vdm_kernels
from vdm_kernels import native

assert native.HAS_CUDA, native.WHY_NOT
print(native.C.build_info)
for op, backends in vdm_kernels.backends().items():
    print(op, backends)
PYTHON
}

# What CPUs do is tested everywhere else, and the tests of compiling and of emulation need no GPU.
kernel_tests() {
  run_pytest tests/vdm_kernels -k "not cpu-" --ignore=tests/vdm_kernels/test_cuda_compile.py \
    --ignore=tests/vdm_kernels/test_cuda_emulated.py \
    --ignore=tests/vdm_kernels/test_native_build.py \
    --ignore=tests/vdm_kernels/test_triton_compile.py
}

model_tests() { run_pytest -m gpu tests/vdm/diffusion tests/vdm/guidance tests/vdm/samplers tests/vdm/models; }

workers=
if "$python" -c 'import xdist' 2>/dev/null; then
  cores=$(nproc)
  workers="-n $((cores < 8 ? cores : 8))"
fi
export python workers
export -f run_pytest environment build kernel_tests model_tests

stage "environment" environment.log 60 bash -c environment
stage "build" build.log 150 bash -c build
stage "tests of the kernels" tests.log 200 bash -c kernel_tests
stage "tests of the models marked gpu" tests.log 100 bash -c model_tests

if command -v compute-sanitizer >/dev/null; then
  # Every allocation by itself, so that nothing can be read beyond its end; only our kernels are watched.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  watch=(--error-exitcode 9 --kernel-name kernel_substring=vdm "$python" scripts/sanitized_calls.py)
  # PyTorch asks the driver questions that may fail; only what kernels do counts.
  stage "compute-sanitizer memcheck" sanitizer.log 90 compute-sanitizer --tool memcheck --report-api-errors no "${watch[@]}"
  stage "compute-sanitizer racecheck" sanitizer.log 60 compute-sanitizer --tool racecheck "${watch[@]}"
  unset PYTORCH_NO_CUDA_MEMORY_CACHING
else
  report SKIP "compute-sanitizer (not installed)" 0
fi

# One process per file: one that hangs or runs out of time costs its own rows only.
parts=$(mktemp -d)
for file in benchmarks/test_{ancestral_step,ddim_step,langevin_step,philox_normal,q_sample,abs_quantile}.py benchmarks/test_*.py; do
  part="$parts/$(basename "$file" .py).json"
  [[ -e "$part.started" ]] && continue
  : >"$part.started"
  stage "$file" benchmarks.log 60 "$python" -m pytest -p no:cacheprovider -q "$file" --benchmark-only --device cuda \
    "--benchmark-json=$part" --time-limit 45
done
"$python" - "$parts" "$out/benchmarks.json" <<'PYTHON'
import json
import sys
from pathlib import Path

merged: dict = {}
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    text = path.read_text()
    if text.strip():
        part = json.loads(text)
        part["benchmarks"] = merged.get("benchmarks", []) + part["benchmarks"]
        merged = part
Path(sys.argv[2]).write_text(json.dumps(merged, indent=1))
PYTHON
rm -r "$parts"

printf '\n'
cat "$summary"
exit $failed
