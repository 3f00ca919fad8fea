#!/bin/sh
# BERT_BASE on two machines of eight GPUs each. Run the same line on both:
#
#     MASTER=first-machine:29500 sh examples/two_nodes.sh /shared/corpus /shared/run
#
# MASTER is an address of either machine that the other can reach. The corpus (made once by
# `bertsmith prepare`) and the run folder stand on a disk that both machines share. A batch is the
# paper's, 256 sequences of 512 pieces, whatever the number of GPUs: each takes a sixteenth of it.
#
# When a process or a machine is lost, torchrun starts all of them again, up to three times, and they
# go on from the newest checkpoint. SIGTERM to torchrun on either machine saves and stops both; the
# same line goes on. What this costs is worked out in docs/scale.md; it has not been measured.
set -eu
corpus=$1
run=$2


exec torchrun \
    --nnodes=2 \
    --nproc-per-node=8 \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$MASTER" \
    --rdzv-id="$(basename "$run")" \
    --max-restarts=3 \
    -m bertsmith pretrain "$corpus" \
    --out "$run" \
    --resume \
    --size base \
    --steps 1000000 \
    --tokens-per-batch 131072 \
    --warmup 0.01 \
    --checkpoint-every 1000 \
    --evaluate-every 5000 \
    --rank-timeout 10m \
    --json
