#!/bin/bash
# A sweep on whole nodes of a SLURM cluster; docs/cluster.md explains it.
#   sbatch examples/slurm.sh +experiment=cnn
#SBATCH --job-name=mnist_sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=08:00:00
#SBATCH --requeue
# With GPUs, add: #SBATCH --gpus-per-task=4
set -euo pipefail
source .venv/bin/activate

# The token is in ~/.ray/auth_token: `umask 077 && ray get-auth-token --generate > /dev/null`, once.
export RAY_AUTH_MODE=token
# How long the nodes of the job may take to start Ray, in seconds.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 RAY_py_gcs_connect_timeout_s=300
# SLURM runs this script on the first node. Its name may mean 127.0.1.1 there, so the others get its first address.
head=$(hostname --all-ip-addresses | cut -d ' ' -f 1)

# Runs on every node: starts Ray, and on the first one also the sweep.
srun --wait=60 ray symmetric-run \
    --address "$head:6390" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" \
    --node-manager-port=6391 --object-manager-port=6392 --metrics-export-port=6393 \
    --dashboard-agent-listen-port=6394 --dashboard-agent-grpc-port=6395 --runtime-env-agent-port=6396 \
    --min-worker-port=10010 --max-worker-port=10100 --disable-usage-stats \
    -- python -m mnist_sweep "$@" workers=ray workers.address=auto resume=auto
