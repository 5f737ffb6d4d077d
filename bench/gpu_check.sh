#!/usr/bin/env bash
# Builds, tests, measures and tunes everything on this machine's GPU, in under 9 minutes:
#
#   bench/gpu_check.sh OUT [--only build,test,bench,sweep,profile,train]
#
# Needs torch, Triton, nvcc, a C++ compiler, ninja and pytest. Needs no network and installs
# nothing: the package is laid out in build/gpu as it would be installed. Logs and JSON go to OUT,
# as do the files for bench/results/, <gpu>-<date>.*; a short table always comes last. Continues
# after a failure, and exits with 1 if any step failed. Each step has a share of the time left; it
# lists what it skipped for lack of time, which is not a failure. Without a GPU it builds what it
# can, says that it measured nothing, and exits with 0.

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
for part in ${parts//,/ }; do
  case $part in build | test | bench | sweep | profile | train) ;; *)
    echo "$usage" >&2
    exit 2
    ;;
  esac
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."

build=$PWD/build/gpu
# The clone's own sodeep_fast, which has no libraries, must not come before the built one; hence -P.
export PYTHONPATH=$build/lib:$PWD PYTHONUNBUFFERED=1
export PYTHONSAFEPATH=1 # -P for the processes that these start
python=(python3 -P)
arch=$("${python[@]}" -c 'import torch
print("%d%d" % torch.cuda.get_device_capability() if torch.cuda.is_available() else "none")')
summary=$out/summary.txt
{
  date -u '+%Y-%m-%d %H:%M UTC'
  git describe --always --dirty --exclude='*' 2>/dev/null || true
} >"$summary"

# A GPU may be available for only ten minutes. Steps stop at their share of `total` seconds; one
# that does not is ended a little later, in time for the final table.
total=490 grace=20 deadline=525
# The shares; those of steps that were not requested go to the others.
steps=(build doctor resources test large bench networks losses sweep profile memcheck racecheck)
declare -A share=(
  [build]=130 [doctor]=10 [resources]=45 [test]=100 [large]=25 [bench]=80 [networks]=45 [losses]=70
  [sweep]=45 [profile]=15 [memcheck]=20 [racecheck]=20 [cnn]=200 [lstm]=200
)
declare -A members=(
  [build]="build doctor resources" [test]="test large" [bench]="bench networks losses"
  [sweep]=sweep [profile]="profile memcheck racecheck" [train]="cnn lstm"
)
[[ $parts != *train* ]] || steps+=(cnn lstm)
failed=0

wanted() { [[ ,$parts, == *,$1,* ]]; }

# Prints the table, also if this script is ended early.
finish() {
  local status=$1
  trap - EXIT INT TERM
  # Kills the whole group: a `timeout` that has just begun would end without its command.
  local job
  for job in $(jobs -p); do
    kill -- "-$job" 2>/dev/null || kill "$job" 2>/dev/null
  done
  [[ $arch != none ]] || echo "no GPU here: measured nothing" >>"$summary"
  echo
  cat "$summary"
  exit "$status"
}
trap 'finish $failed' EXIT
trap 'echo "ENDED from outside after $SECONDS s: the rest is missing" >>"$summary"; finish 1' INT TERM

# Sets `limit` to a step's share of the time that is left, in seconds, and `until` to its end.
limit=0 until=0
allot() {
  local name=$1 part step sum=0 counted=0
  for step in "${steps[@]}"; do
    [[ $step != "$name" ]] || counted=1
    for part in "${!members[@]}"; do
      if ((counted)) && wanted "$part" && [[ " ${members[$part]} " == *" $step "* ]]; then
        sum=$((sum + share[$step]))
      fi
    done
  done
  limit=$(((total - SECONDS) * share[$name] / sum))
  ((limit > 1)) || limit=1
  until=$(($(date +%s) + limit))
}

# Runs a step, whose time `allot` has set; keeps its output in the part's log, and records the
# result.
step() {
  local name=$1 log=$2 begin=$SECONDS before=0 status verdict=ok hard
  shift 2
  hard=$((limit + grace))
  ((hard <= deadline - SECONDS)) || hard=$((deadline > SECONDS ? deadline - SECONDS : 1))
  echo "== $name, $limit s"
  [[ ! -f $log ]] || before=$(stat -c %s "$log")
  # In the background, as the shell handles signals during `wait`; the status is the command's.
  timeout --kill-after=5 "$hard" "$@" 2>&1 | tee -a "$log" &
  wait $!
  status=$?
  if [[ $status -eq 124 || $status -eq 137 ]]; then
    verdict="FAILED: ran past $hard s"
  elif [[ $status -ne 0 ]]; then
    verdict="FAILED: exit status $status"
  fi
  [[ $status -eq 0 ]] || failed=1
  local left_out
  left_out=$(tail -c "+$((before + 1))" "$log" | grep -o 'left out for lack of time: [0-9]*' | tail -1)
  printf '%-10s %4d s  %s\n' "$name" $((SECONDS - begin)) "$verdict${left_out:+, $left_out}" \
    >>"$summary"
}

for part in ${parts//,/ }; do
  rm -f "$out/$part.log"
done

if wanted build; then
  if [[ $arch != none ]]; then
    export SODEEP_FAST_CUDA=1 SODEEP_FAST_CUDA_ARCHS=$arch
  fi
  allot build
  step build "$out/build.log" \
    "${python[@]}" setup.py build --build-base "$build" --build-lib "$build/lib"
  allot doctor
  step doctor "$out/build.log" "${python[@]}" -m sodeep_fast.cli doctor
  allot resources
  resources=(-m bench.kernel_resources --json "$out/resources.json")
  [[ $arch == none ]] || resources+=(--arch "$arch")
  step resources "$out/build.log" "${python[@]}" "${resources[@]}"
fi
if wanted test; then
  # The tests of the kernels, and those of other files that run on every device. pythonpath replaces
  # the project's, which is the clone. Warnings of a torch that we did not choose are no errors.
  mapfile -t shared < <(grep -l DEVICES tests/test_*.py)
  pytest=("${python[@]}" -m pytest tests/*_gpu.py "${shared[@]}" -k "gpu or cuda" -v
    -p no:cacheprovider -p bench.pytest_limit -o pythonpath="$build/lib" -W default --durations=10)
  # Compiling kernels takes most of the time, and most processors are idle.
  parallel=()
  ! "${python[@]}" -c 'import xdist' 2>/dev/null || parallel=(-n 8)
  allot test
  step test "$out/test.log" "${pytest[@]}" --until "$until" -m "not large" "${parallel[@]}"
  allot large
  step large "$out/test.log" "${pytest[@]}" --until "$until" -m large
fi
if wanted bench; then
  for what in bench networks losses; do
    allot "$what"
    step "$what" "$out/bench.log" \
      "${python[@]}" -m "bench.gpu_$what" --json "$out/$what.json" --until "$until"
  done
fi
if wanted sweep; then
  allot sweep
  step sweep "$out/sweep.log" \
    "${python[@]}" -m bench.gpu_sweep --json "$out/sweep.json" --until "$until"
fi
if wanted profile; then
  profile=("${python[@]}" -m bench.gpu_profile)
  allot profile
  step profile "$out/profile.log" "${profile[@]}" --json "$out/profile.json" --until "$until"
  if [[ $arch == none ]] || ! command -v compute-sanitizer >/dev/null; then
    echo "no memory checker here: memcheck and racecheck did not run" >>"$summary"
  else
    # Each tensor gets its own allocation; the checker would otherwise only see PyTorch's large
    # blocks.
    declare -A checker=(
      [memcheck]="env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --report-api-errors no"
      [racecheck]=compute-sanitizer
    )
    for tool in memcheck racecheck; do
      allot "$tool"
      step "$tool" "$out/profile.log" ${checker[$tool]} --tool "$tool" --error-exitcode 9 \
        "${profile[@]}" --exercise --until "$until"
    done
  fi
fi
# Only on request: it takes all the time there is, and resumes the next time.
if wanted train; then
  for sorter in cnn lstm; do
    train=(-m sodeep_fast.cli train --sorter "$sorter" --output "$out/$sorter.safetensors")
    train+=(--standardize --preset fast --steps 30000 --lr 0.002 --quiet --device cuda)
    if [[ $arch == none ]]; then
      echo "no GPU: trained nothing" | tee -a "$out/train.log"
    else
      allot "$sorter"
      step "$sorter" "$out/train.log" "${python[@]}" "${train[@]}"
    fi
  done
fi
# Results of earlier calls in OUT are gathered with those of this one.
if [[ $arch != none ]]; then
  timeout 30 "${python[@]}" -m bench.gpu_report "$out" >>"$summary" 2>&1 || failed=1
fi
exit $failed
