#!/usr/bin/env bash
# A SLURM cluster of this one machine, with accounting, for tests: `cluster.sh up FOLDER` and `cluster.sh down FOLDER`. Needs Debian
# and root. All that it writes lies in FOLDER but a link to its configuration, /etc/slurm/slurm.conf: Snakemake's jobs forget
# SLURM_CONF. `down` ends what `up` began.
set -euo pipefail
folder=$(realpath -m "$2")

begin() {  # begin NAME COMMAND...: a daemon that stays in the foreground, in our background
  local name=$1; shift
  setsid "$@" > "$folder/$name.out" 2>&1 < /dev/null &
  echo $! > "$folder/$name.pid"
}

wait_for() {  # wait_for COMMAND...: at most a minute
  for _ in $(seq 120); do "$@" > "$folder/wait.out" 2>&1 && return; sleep 0.5; done
  echo "gave up: $*"; cat "$folder/wait.out"; tail -n 3 "$folder"/*.out "$folder"/*.log; exit 1
}

up() {
  if ! command -v slurmctld slurmdbd munged mariadbd > /dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends slurm-wlm slurmdbd munge mariadb-server
  fi
  mkdir -p "$folder"/{state,spool,db}
  local size; size=$(slurmd -C | grep -o "CPUs=[0-9]*\|RealMemory=[0-9]*" | paste -s -d " ")
  cat > "$folder/slurm.conf" <<CONF
ClusterName=featint
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/ctld.own.pid
SlurmdPidFile=$folder/d.own.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MpiDefault=none
KillWait=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
JobAcctGatherType=jobacct_gather/linux
NodeName=$(hostname -s) NodeAddr=127.0.0.1 $size
PartitionName=batch Nodes=ALL Default=YES
CONF
  cat > "$folder/slurmdbd.conf" <<CONF
DbdHost=$(hostname -s)
DbdAddr=127.0.0.1
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=33070
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
PidFile=$folder/dbd.own.pid
CONF
  chmod 600 "$folder/slurmdbd.conf"
  if [ -e /etc/slurm/slurm.conf ]; then echo "there is a cluster here: /etc/slurm/slurm.conf"; exit 1; fi
  ln -s "$folder/slurm.conf" /etc/slurm/slurm.conf
  export SLURM_CONF="$folder/slurm.conf"  # slurmdbd.conf lies beside it

  if ! munge --no-input > /dev/null 2>&1; then  # its place is fixed: every client looks there
    dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    chmod 600 "$folder/munge.key"
    mkdir -p /run/munge
    begin munge munged --foreground --force --key-file="$folder/munge.key" --log-file="$folder/munge.log" \
      --seed-file="$folder/munge.seed"
    wait_for munge --no-input
  fi

  mariadb-install-db --user=root --datadir="$folder/db" --auth-root-authentication-method=normal > "$folder/db-install.out"
  begin db mariadbd --no-defaults --user=root --datadir="$folder/db" --socket="$folder/db.socket" \
    --bind-address=127.0.0.1 --port=33070
  wait_for mariadb --no-defaults --socket="$folder/db.socket" --user=root --execute="
    CREATE DATABASE IF NOT EXISTS slurm; CREATE USER IF NOT EXISTS slurm@localhost IDENTIFIED BY 'slurm'; GRANT ALL ON slurm.* TO slurm@localhost"
  begin dbd slurmdbd -D
  wait_for sacctmgr --immediate show cluster
  sacctmgr --immediate add cluster featint > /dev/null || true  # there already
  sacctmgr --immediate add account mine description=mine organization=mine > /dev/null || true
  sacctmgr --immediate add user root account=mine > /dev/null || true
  begin ctld slurmctld -D
  begin d slurmd -D
  wait_for sh -c 'sinfo --noheader --format=%T | grep -qx idle'
  sinfo
}

down() {
  if [ "$(readlink /etc/slurm/slurm.conf)" = "$folder/slurm.conf" ]; then rm /etc/slurm/slurm.conf; fi
  for name in d ctld dbd db munge; do
    if [ -f "$folder/$name.pid" ]; then
      kill "$(cat "$folder/$name.pid")" 2> /dev/null || true
      rm "$folder/$name.pid"
    fi
  done
}

"$1"
