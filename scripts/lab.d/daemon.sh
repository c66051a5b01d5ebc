# shellcheck shell=bash
# Directors: the real lvsd in a namespace of its own, and the tools as its operator types them there.

# The director that is typed on; labs with two of them change it with 'at'.
AT=director
# What each director's NICs are called, by its host name.
declare -A DEVICES_OF=()
# The pid of each director's lvsd.
declare -A LVSD_PIDS=()

lvsd_bin() { echo "${LVSD_BIN:-$LAB_HOME/target/debug/lvsd}"; }
lvsctl_bin() { echo "${LVSCTL_BIN:-$LAB_HOME/target/debug/lvsctl}"; }
# Finds the library beside itself.
lvs_run_bin() { echo "${LVS_RUN_BIN:-$(dirname "$(lvsctl_bin)")/lvs-run}"; }

# at HOST: commands are typed on this director from now on.
at() { AT=$1; }

# director_file NAME: a file of the director that is typed on.
director_file() { echo "$LAB_STATE/$AT/$1"; }

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

# Tables of lvsd.toml beside those of every lab ([[mark]], [sysctl]), if a lab wants some.
MORE_CONFIG=""

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

# The tools by their own names, led to this director's lvsd: what an installed lvs-run does for them.
write_tools() {
    local tool
    mkdir -p "$(director_file bin)"
    for tool in ipvsadm ipvsadm-save ipvsadm-restore keepalived ldirectord; do
        write_tool "$tool" "'$(lvs_run_bin)' --socket '$(director_file ipvs.sock)' '$(PATH=$PATH:/usr/sbin type -P "$tool")'"
    done
    write_tool lvs-run "'$(lvs_run_bin)' --socket '$(director_file ipvs.sock)'"
    write_tool lvsctl "'$(lvsctl_bin)' --socket '$(director_file api.sock)'"
}

write_tool() {
    printf '#!/bin/sh\nexec %s "$@"\n' "$2" >"$(director_file "bin/$1")"
    chmod 755 "$(director_file "bin/$1")"
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

# on_director COMMAND...: done on the director that is typed on; the tools are in its PATH.
on_director() { PATH=$(director_file bin):$PATH in_ns "$AT" "$@"; }
lvsctl_quiet() { on_director lvsctl "$@"; }
ipvsadm_quiet() { on_director ipvsadm "$@"; }

# lvsctl ARGUMENTS..., ipvsadm ARGUMENTS...: shown as typed, and done.
lvsctl() {
    typed "$AT" "lvsctl $*"
    lvsctl_quiet "$@"
}

ipvsadm() {
    typed "$AT" "ipvsadm $*"
    ipvsadm_quiet "$@"
}

# director_types COMMAND...: shown as typed, and done.
director_types() {
    typed "$AT" "$*"
    on_director "$@"
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

# rows: of a listing, the lines of real servers.
rows() { awk '$1 == "->" && $2 != "RemoteAddress:Port"'; }

# rows_of VIP:PORT: its rows of -Lnc, single spaces between the columns.
rows_of() { ipvsadm_quiet -Lnc | awk -v vip="$1" '$5 == vip { $1 = $1; print }'; }

# sum_of_column SERVICE COLUMN: a number of 'ipvsadm -Ln --stats --exact' over all servers
# (1 Conns, 2 InPkts, 3 OutPkts, 4 InBytes, 5 OutBytes).
sum_of_column() {
    ipvsadm_quiet -Ln -t "$1" --stats --exact | rows | awk -v column="$2" '{ sum += $(column + 2) } END { print sum + 0 }'
}

# active_conns SERVICE: ActiveConn of all its servers together.
active_conns() { ipvsadm_quiet -Ln -t "$1" | rows | awk '{ sum += $5 } END { print sum + 0 }'; }

show_daemon_logs() {
    local log
    for log in "$LAB_STATE"/*-lvsd.log "$LAB_STATE"/*-keepalived.log; do
        [[ -f $log ]] || continue
        echo "--- the end of $log"
        tail -n 30 "$log"
    done
}
