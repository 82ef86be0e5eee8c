#!/bin/sh
# A training on several hosts without a cluster manager. The project lies on a disk that all hosts see, and params.yaml
# says train: {nodes: 2, launcher: torchrun}. ADDRESS is the first host's, and the same on all:
#   first host:  deploy/torchrun.sh repro ADDRESS    runs the whole pipeline; train waits for the others (10 minutes)
#   the others:  deploy/torchrun.sh join ADDRESS     again after a host came back
# To go on with those that are left, the first among them: export PET_NNODES=1:2 on every host
set -eu
usage="usage: deploy/torchrun.sh repro|join ADDRESS[:PORT]"
role="${1:?$usage}"
address="${2:?$usage}"
case "$address" in *:*) ;; *) address="$address:29400" ;; esac
export PET_RDZV_ENDPOINT="$address"
cd "$(dirname "$0")/.."
if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi
case "$role" in
    repro) exec dvc repro ;;
    join) exec python -m convloop train ;;
    *) echo "$usage" >&2; exit 2 ;;
esac
