#!/usr/bin/env bash
# A sweep over likelihoods and seeds as Slurm jobs, a process each: scripts/slurm_sweep.sh FOLDER [settings of soscope train]
# PARTITION=gpu is where they go.
set -euo pipefail
folder=${1:?name a Space Ranger folder}
shift
exec soscope train -m trainer=slurm model=nb,poisson seed=0,1,2 data=visium data.path="$folder" platform=visium \
    hydra.launcher.partition="${PARTITION:-gpu}" hydra.launcher.gpus_per_node=1 "$@"
