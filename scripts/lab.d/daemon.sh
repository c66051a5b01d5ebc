# shellcheck shell=bash
# lvsd in the namespace 'director', and lvsctl as its operator types it.

DEVICES=()

lvsd_bin() { echo "${LVSD_BIN:-$LAB_HOME/target/debug/lvsd}"; }
lvsctl_bin() { echo "${LVSCTL_BIN:-$LAB_HOME/target/debug/lvsctl}"; }

# The devices as DPDK's EAL is told of them.
vdev() {
    # A setting of scripts/lab, not one of DEVICES.
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

write_config() {
    local index
    cat >"$LAB_STATE/lvsd.toml" <<TOML
# Software devices on ordinary memory; workers sleep when idle, for they share the machine with both ends.
[eal]
hugepages = "never"
worker_cores = [$(worker_cores)]

[workers]
count = $WORKERS
idle = "sleep"

[api]
socket = "$LAB_STATE/api.sock"

[journal]
path = "$LAB_STATE/journal"
TOML
    for index in "${!DEVICES[@]}"; do
        cat >>"$LAB_STATE/lvsd.toml" <<TOML

[[device]]
name = "${DEVICES[index]}"
dpdk = "$(vdev "$index" "${DEVICES[index]}0")"
TOML
    done
}

start_lvsd() {
    write_config
    (($(ulimit -l) == -1)) 2>/dev/null || ulimit -l unlimited 2>/dev/null || true
    typed director "lvsd --config $LAB_STATE/lvsd.toml"
    start director lvsd "$(lvsd_bin)" --config "$LAB_STATE/lvsd.toml"
    LVSD_PID=$(awk '$2 == "director-lvsd" { print $1 }' "$LAB_STATE/pids")
    until_true 30 lvsd_answers || {
        echo "lvsd does not answer" >&2
        exit 1
    }
}

lvsd_answers() {
    kill -0 "$LVSD_PID" 2>/dev/null || {
        echo "lvsd has ended" >&2
        exit 1
    }
    lvsctl_quiet version >/dev/null 2>&1
}

lvsctl_quiet() { "$(lvsctl_bin)" --socket "$LAB_STATE/api.sock" "$@"; }

# lvsctl ARGUMENTS...: shown as typed, and done.
lvsctl() {
    echo "\$ lvsctl $*"
    lvsctl_quiet "$@"
}

# director_types COMMAND...: shown as typed on the director, and done.
director_types() {
    typed director "$*"
    in_ns director "$@"
}

typed() { echo "$1\$ $2"; }

# twin_has DEVICE ADDRESS/LEN...: gives the device's kernel twin its addresses, as an operator would.
twin_has() {
    local device=$1 addr
    shift
    for addr in "$@"; do
        if [[ $addr == *:* ]]; then
            director_types ip addr add "$addr" dev "$device" nodad
        else
            director_types ip addr add "$addr" dev "$device"
        fi
    done
}

# sum_of_column SERVICE COLUMN: a number of 'lvsctl list --stats --exact' over all servers
# (1 Conns, 2 InPkts, 3 OutPkts, 4 InBytes, 5 OutBytes).
sum_of_column() {
    lvsctl_quiet list "$1" --stats --exact |
        awk -v column="$2" '$1 == "->" && $2 != "RemoteAddress:Port" { sum += $(column + 2) } END { print sum + 0 }'
}

# active_conns SERVICE: ActiveConn of all its servers together.
active_conns() {
    lvsctl_quiet list "$1" | awk '$1 == "->" && $2 != "RemoteAddress:Port" { sum += $5 } END { print sum + 0 }'
}

show_daemon_log() {
    [[ -f $LAB_STATE/director-lvsd.log ]] || return 0
    echo "--- the end of lvsd's log"
    tail -n 30 "$LAB_STATE/director-lvsd.log"
}
