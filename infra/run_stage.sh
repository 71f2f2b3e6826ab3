#!/bin/bash
# Bring one stage up to date under a scheduler that may want its machine back.
#
#   infra/run_stage.sh STAGE [COMMAND ...]
#   infra/run_stage.sh pretrain scontrol requeue "$SLURM_JOB_ID"
#
# Runs `dvc repro STAGE` with .venv. Exit code 0: done. 75: asked to end (SIGTERM) and saved; it is to
# be run again, and COMMAND was run to bring that about. Any other: failed. The files for Slurm and
# Kubernetes start it. DVC, when asked to end, does not wait for its stage; this does, so that a
# training has saved itself before the scheduler believes that all is over.
set -u
stage=${1:?usage: infra/run_stage.sh STAGE [COMMAND ...]}
shift
cd "$(dirname "$0")/.." || exit
export PATH="$PWD/.venv/bin:$PATH"
mark=".tessera/preempted/$stage.json"
output="artifacts/${stage/@//}"
lock="$(dirname "$output")/.$(basename "$output").lock"

rm -f "$mark"
asked=no
repro=
# Before anything is started: the first process of a container does not even hear a signal else.
trap 'asked=yes; [ -z "$repro" ] || kill -TERM "$repro" 2>/dev/null' TERM
dvc --wait-for-lock repro "$stage" &
repro=$!
[ "$asked" = no ] || kill -TERM "$repro" 2>/dev/null
wait "$repro"
code=$?
if [ "$asked" = yes ]; then # the signal cut that wait short
    wait "$repro"
    code=$?
fi
# A training that has lost its DVC saves a checkpoint, and holds the lock of its output meanwhile.
[ ! -e "$lock" ] || flock "$lock" true
if [ "$code" -ne 0 ] && { [ "$asked" = yes ] || [ -e "$mark" ]; }; then
    "${@:-true}"
    exit 75
fi
exit "$code"
