#!/usr/bin/env bash
# Stops the cluster of start_slurm.sh and removes its folder: scripts/stop_slurm.sh FOLDER
set -uo pipefail
folder=$(realpath -m "${1:?usage: scripts/stop_slurm.sh FOLDER}")
[ -e "$folder/slurm.conf" ] || exit 0
export SLURM_CONF=$folder/slurm.conf
scancel --full --signal=KILL --user=root
scancel --user=root
scontrol shutdown
munge=$(cat "$folder/munge/pid")
for _ in $(seq 40); do # both remove their files last
    [ -e "$folder/slurmctld.pid" ] || [ -e "$folder/slurmd.pid" ] || break
    sleep 0.25
done
kill "$munge"
rm -rf "$folder"
