#!/bin/sh
# A training on two hosts of four GPUs under SLURM: sbatch deploy/slurm.sh
# params.yaml holds the same figures: train: {nodes: 2, devices: 4, launcher: slurm, strategy: ddp, batch_size: 512}
# The project lies on a disk that all hosts see. `dvc repro` runs once, on the first host, and starts srun for train.
#SBATCH --job-name=convloop
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gres=gpu:4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
set -eu
cd "${SLURM_SUBMIT_DIR:-.}"
if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
# A job that was requeued goes on from the last whole epoch, in the same run.
exec dvc repro "$@"
