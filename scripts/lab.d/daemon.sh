# shellcheck shell=bash
# Directors: the real lvsd in a namespace of its own, its configuration, its start and its end.

# What each director's NICs are called, by its host name.
declare -A DEVICES_OF=()
# The pid of each director's lvsd.
declare -A LVSD_PIDS=()

lvsd_bin() { echo "${LVSD_BIN:-$LAB_HOME/target/debug/lvsd}"; }

# The devices as DPDK's EAL is told of them.
vdev() {
    # A setting of scripts/lab, not one of DEVICES_OF.
    # shellcheck disable=SC2153
    case $DEVICE in
    # Rings that outlast a moment in which the worker's core belongs to nginx or ab.
    af_packet) echo "net_af_packet$1,iface=$2,qpairs=$WORKERS,blocksz=4096,framesz=2048,framecnt=4096" ;;
    af_xdp) echo "net_af_xdp$1,iface=$2" ;;
    *) echo "unknown device $DEVICE" >&2 && exit 2 ;;
    esac
}

# One CPU a worker, the first CPU last: 1, 2 ... 0, and round again where there are fewer.
worker_cores() {
    local worker
    for ((worker = 1; worker <= WORKERS; worker++)); do
        echo $((worker % $(nproc)))
    done | paste -sd,
}

# Keys of lvsd.toml's [connections] beside those of every lab, if a caller wants some.
MORE_CONNECTIONS=${LAB_CONNECTIONS:-}
# Tables of lvsd.toml beside those of every lab ([[mark]], [sysctl]), if a lab or its caller wants some.
MORE_CONFIG=${LAB_MORE_CONFIG:-}

# Where the connections of the director that is typed on outlive its lvsd.
state_dir() { echo "/dev/shm/$LAB_PREFIX-lab-$AT"; }

write_config() {
    local index=0 device
    cat >"$(director_file lvsd.toml)" <<TOML
# Software devices on ordinary memory; workers sleep when idle, for they share the machine with both ends.
[eal]
hugepages = "never"
worker_cores = [$(worker_cores)]

[workers]
count = $WORKERS
idle = "sleep"

[connections]
state_dir = "$(state_dir)"
$MORE_CONNECTIONS

[api]
socket = "$(director_file api.sock)"

[journal]
path = "$(director_file journal)"
$MORE_CONFIG
TOML
    for device in ${DEVICES_OF[$AT]}; do
        cat >>"$(director_file lvsd.toml)" <<TOML

[[device]]
name = "$device"
dpdk = "$(vdev "$index" "${device}0")"
TOML
        index=$((index + 1))
    done
}

# start_lvsd: on the director that is typed on; ready when it returns.
start_lvsd() {
    mkdir -p "$(director_file bin)"
    write_config
    write_tools
    (($(ulimit -l) == -1)) 2>/dev/null || ulimit -l unlimited 2>/dev/null || true
    run_lvsd
}

# run_lvsd: with the configuration that is there.
run_lvsd() {
    typed "$AT" "lvsd --config $(director_file lvsd.toml)"
    start "$AT" lvsd "$(lvsd_bin)" --config "$(director_file lvsd.toml)"
    LVSD_PIDS[$AT]=$!
    until_true 60 lvsd_answers || {
        echo "lvsd does not answer" >&2
        exit 1
    }
}

lvsd_answers() {
    kill -0 "${LVSD_PIDS[$AT]}" 2>/dev/null || {
        echo "lvsd has ended" >&2
        exit 1
    }
    lvsctl_quiet version >/dev/null 2>&1
}

# end_lvsd SIGNAL: and waits until it is gone.
end_lvsd() {
    typed "$AT" "kill -$1 $(basename "$(lvsd_bin)")"
    kill -s "$1" "${LVSD_PIDS[$AT]}"
    # The shell would tell of a process that was killed.
    wait "${LVSD_PIDS[$AT]}" 2>/dev/null || true
}

# forget_connections: gives back the memory in which they outlived lvsd.
forget_connections() {
    typed "$AT" "lvsd --config $(director_file lvsd.toml) --forget-state"
    on_director "$(lvsd_bin)" --config "$(director_file lvsd.toml)" --forget-state
}

show_daemon_logs() {
    local log
    for log in "$LAB_STATE"/*-lvsd.log "$LAB_STATE"/*-keepalived.log; do
        [[ -f $log ]] || continue
        echo "--- the end of $log"
        tail -n 30 "$log"
    done
}
