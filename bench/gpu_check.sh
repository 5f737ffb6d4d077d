#!/usr/bin/env bash
# Builds, tests, measures and tunes everything on this machine's GPU, in under 9 minutes:
#
#   bench/gpu_check.sh OUT [--only build,test,bench,sweep]
#
# Needs torch, Triton, nvcc, a C++ compiler, ninja and pytest; no network, and installs nothing: the
# package is laid out in build/gpu as it would be installed. Logs and JSON go to OUT, a short table
# comes last. Goes on after a failure; exits with 1 if any part failed. Without a GPU it builds what
# it can, says that it measured nothing, and exits with 0.

set -uo pipefail
usage="usage: bench/gpu_check.sh OUT [--only build,test,bench,sweep]"
out=${1:?$usage}
parts=build,test,bench,sweep
if [[ ${2:-} == --only ]]; then
  parts=${3:?$usage}
elif [[ $# -gt 1 ]]; then
  echo "$usage" >&2
  exit 2
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."

build=$PWD/build/gpu
export PYTHONPATH=$build/lib PYTHONUNBUFFERED=1
# -P: the clone's own sodeep_fast, which has no libraries, must not come before the built one.
python=(python3 -P)
arch=$("${python[@]}" -c 'import torch
print("%d%d" % torch.cuda.get_device_capability() if torch.cuda.is_available() else "none")')
summary=$out/summary.txt
{
  date -u '+%Y-%m-%d %H:%M UTC'
  git describe --always --dirty --exclude='*' 2>/dev/null || true
} >"$summary"
failed=0
deadline=530 # seconds for everything: a GPU may be at hand for ten minutes

# Runs a step with a time limit, keeps its output, and notes how it went.
step() {
  local name=$1 limit=$2 log=$3 begin=$SECONDS status left=$((deadline - SECONDS))
  shift 3
  echo "== $name"
  [[ $limit -le $left ]] || limit=$((left > 1 ? left : 1))
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee -a "$log"
  status=${PIPESTATUS[0]}
  local verdict=ok
  if [[ $status -eq 124 ]]; then
    verdict="FAILED: ran past $limit s"
  elif [[ $status -ne 0 ]]; then
    verdict="FAILED: exit status $status"
  fi
  [[ $status -eq 0 ]] || failed=1
  printf '%-10s %4d s  %s\n' "$name" $((SECONDS - begin)) "$verdict" >>"$summary"
}

wanted() { [[ ,$parts, == *,$1,* ]]; }

for part in ${parts//,/ }; do
  case $part in build | test | bench | sweep) ;; *)
    echo "$usage" >&2
    exit 2
    ;;
  esac
  rm -f "$out/$part.log"
done

if wanted build; then
  if [[ $arch != none ]]; then
    export SODEEP_FAST_CUDA=1 SODEEP_FAST_CUDA_ARCHS=$arch
  fi
  step build 150 "$out/build.log" \
    "${python[@]}" setup.py build --build-base "$build" --build-lib "$build/lib"
  step doctor 60 "$out/build.log" "${python[@]}" -m sodeep_fast.cli doctor
  resources=(bench/kernel_resources.py --json "$out/resources.json")
  [[ $arch == none ]] || resources+=(--arch "$arch")
  step resources 100 "$out/build.log" "${python[@]}" "${resources[@]}"
fi
if wanted test; then
  # The project's own pythonpath is the clone. Warnings of a torch that we did not choose are shown,
  # not errors.
  step test 240 "$out/test.log" "${python[@]}" -m pytest tests/*_gpu.py -q -p no:cacheprovider \
    -o pythonpath="$build/lib" -W default --maxfail=40 --durations=10
fi
if wanted bench; then
  step bench 180 "$out/bench.log" "${python[@]}" bench/gpu_bench.py --json "$out/bench.json"
fi
if wanted sweep; then
  step sweep 120 "$out/sweep.log" "${python[@]}" bench/gpu_sweep.py --json "$out/sweep.json"
fi

[[ $arch != none ]] || echo "no GPU here: measured nothing" >>"$summary"
echo
cat "$summary"
exit $failed
