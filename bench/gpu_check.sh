#!/usr/bin/env bash
# Builds, tests, measures and tunes everything on this machine's GPU, in under 9 minutes:
#
#   bench/gpu_check.sh OUT [--only build,test,bench,sweep,profile,train]
#
# Needs torch, Triton, nvcc, a C++ compiler, ninja and pytest; no network, and installs nothing: the
# package is laid out in build/gpu as it would be installed. Logs and JSON go to OUT, a short table
# comes last. Goes on after a failure; exits with 1 if any part failed. Without a GPU it builds what
# it can, says that it measured nothing, and exits with 0.

set -uo pipefail
usage="usage: bench/gpu_check.sh OUT [--only build,test,bench,sweep,profile,train]"
out=${1:?$usage}
parts=build,test,bench,sweep,profile
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
# The clone's own sodeep_fast, which has no libraries, must not come before the built one; hence -P.
export PYTHONPATH=$build/lib:$PWD PYTHONUNBUFFERED=1
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
  case $part in build | test | bench | sweep | profile | train) ;; *)
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
  resources=(-m bench.kernel_resources --json "$out/resources.json")
  [[ $arch == none ]] || resources+=(--arch "$arch")
  step resources 100 "$out/build.log" "${python[@]}" "${resources[@]}"
fi
if wanted test; then
  # The project's own pythonpath is the clone. Warnings of a torch that we did not choose are shown,
  # not errors.
  # Besides the tests of the kernels, those that other files run on every device.
  mapfile -t shared < <(grep -l DEVICES tests/test_*.py)
  step test 240 "$out/test.log" "${python[@]}" -m pytest tests/*_gpu.py "${shared[@]}" \
    -k "gpu or cuda" -q -p no:cacheprovider -o pythonpath="$build/lib" -W default --maxfail=40 \
    --durations=10
fi
if wanted bench; then
  step bench 180 "$out/bench.log" "${python[@]}" -m bench.gpu_bench --json "$out/bench.json"
  step networks 100 "$out/bench.log" \
    "${python[@]}" -m bench.gpu_networks --json "$out/networks.json"
  step losses 120 "$out/bench.log" "${python[@]}" -m bench.retrieval --out "$out" \
    --device cuda --batches 1024 4096 16384 65536
fi
if wanted sweep; then
  step sweep 120 "$out/sweep.log" "${python[@]}" -m bench.gpu_sweep --json "$out/sweep.json"
fi
if wanted profile; then
  profile=("${python[@]}" -m bench.gpu_profile)
  step profile 60 "$out/profile.log" "${profile[@]}" --json "$out/profile.json"
  if [[ $arch == none ]] || ! command -v compute-sanitizer >/dev/null; then
    echo "no memory checker here: memcheck and racecheck did not run" >>"$summary"
  else
    for tool in memcheck racecheck; do
      step "$tool" 90 "$out/profile.log" \
        compute-sanitizer --tool "$tool" --error-exitcode 9 "${profile[@]}" --exercise
    done
  fi
fi
# Only if asked for: it takes all the time that there is, and goes on where it was the next time.
if wanted train; then
  for sorter in cnn lstm; do
    train=(-m sodeep_fast.cli train --sorter "$sorter" --output "$out/$sorter.safetensors")
    train+=(--standardize --preset fast --steps 30000 --lr 0.002 --quiet --device cuda)
    if [[ $arch == none ]]; then
      echo "no GPU: trained nothing" | tee -a "$out/train.log"
    else
      step "$sorter" 260 "$out/train.log" "${python[@]}" "${train[@]}"
    fi
  done
fi

[[ $arch != none ]] || echo "no GPU here: measured nothing" >>"$summary"
echo
cat "$summary"
exit $failed
