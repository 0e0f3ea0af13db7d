#!/usr/bin/env bash
# Starts a Slurm cluster of one node with two fake GPUs on this machine, for tests.
#
#   scripts/start_slurm.sh FOLDER      keeps everything in FOLDER; stop_slurm.sh removes it
#   export SLURM_CONF=FOLDER/slurm.conf
#
# Needs root and Debian or Ubuntu: it installs missing packages and creates device nodes as GPUs. It
# listens only on the loopback interface and does not use /etc/slurm.
set -euo pipefail
folder=$(realpath -m "${1:?usage: scripts/start_slurm.sh FOLDER}")
host=$(hostname -s)

if ! { command -v slurmctld && command -v slurmd && command -v sbatch && command -v munged; } >/dev/null; then
    apt-get install --quiet --yes --no-install-recommends slurmctld slurmd slurm-client munge
fi

mkdir -p "$folder"/{state,spool,munge}
chmod 755 "$folder" "$folder/munge"
head -c 128 /dev/urandom >"$folder/munge/key"
chmod 400 "$folder/munge/key"
for gpu in 0 1; do # Slurm refuses regular files, and then does not set CUDA_VISIBLE_DEVICES
    [ -e "$folder/gpu$gpu" ] || mknod "$folder/gpu$gpu" c 1 3
done

# cred_expire: seconds after which Slurm starts a requeued job; the default is 120.
cat >"$folder/slurm.conf" <<CONF
ClusterName=kdbench
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
MpiDefault=none
MinJobAge=10
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 NodeHostname=$host CPUs=4 RealMemory=1000 Gres=gpu:2
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE State=UP
CONF
echo "NodeName=localhost Name=gpu File=$folder/gpu[0-1]" >"$folder/gres.conf"

export SLURM_CONF=$folder/slurm.conf
munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
slurmctld -c
slurmd -N localhost
for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
        echo "Slurm is up: export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.5
done
sinfo || true
tail -n 20 "$folder"/*.log
exit 1
