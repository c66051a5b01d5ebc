# Sourced by the benches: the real lvsd with one worker in a network namespace of its own, fed by net_pcap.
#
# Figures are divided by the time the worker's thread was on a CPU (/proc/PID/task/TID/schedstat), because
# wall-clock figures mean little on a shared machine; each is the median of five windows (minimum to maximum).
# LVSD_BENCH_BIN: a folder with other binaries to measure; default target/release.
# shellcheck shell=bash

namespace=lvsd-bench
# In memory: nothing that is measured waits for a disk.
work=$(mktemp -d -p /dev/shm)
feeds=target/bench-feeds
bin=${LVSD_BENCH_BIN:-target/release}
cpus=
rt_runtime_us=
hugepages_before=
lvsd_pid=
rows=()
json=
# Which flows, and in which order their packets come: nothing here may depend on either.
base=0
seed=1

cleanup() {
    if [[ -n $lvsd_pid ]]; then
        kill "$lvsd_pid" 2>/dev/null || true
        wait "$lvsd_pid" 2>/dev/null || true
    fi
    ip netns del "$namespace" 2>/dev/null || true
    [[ -z $rt_runtime_us ]] || echo "$rt_runtime_us" >/proc/sys/kernel/sched_rt_runtime_us
    [[ -z $hugepages_before ]] || echo "$hugepages_before" >/proc/sys/vm/nr_hugepages
    rm -rf "$work"
}

needs_root() {
    ((EUID == 0)) || { echo "bench: needs root for a network namespace and hugepages" >&2; exit 1; }
    trap cleanup EXIT
}

prepare() {
    needs_root
    [[ -n ${LVSD_BENCH_BIN:-} ]] || cargo build --release --quiet -p lvsd -p lvs-cli -p lvs-lab-programs
    mkdir -p "$feeds"
    # CPU 1 is the worker's alone: what this script starts stays away from it.
    cpus=$(taskset -pc $$ | sed 's/.*: //')
    taskset -pc 0 $$ >/dev/null
    # A sample that waits for a neighbour is of another instant than its time.
    renice -n -19 -p $$ >/dev/null
}

feed() { # KIND FLOWS DEVICE: prints the file
    local file="$feeds/$1_$2_$3_$base-$seed.pcap"
    [[ -s $file ]] || "$bin/feed" "$file" "$1" "$2" --device "$3" --base "$base" --seed "$seed"
    echo "$file"
}

hugepages() { # MEGABYTES: makes sure that many are free; what it reserves is given back at the end
    local pages=$(($1 / 2 + 64)) free total
    free=$(awk '/HugePages_Free/ {print $2}' /proc/meminfo)
    total=$(awk '/HugePages_Total/ {print $2}' /proc/meminfo)
    if ((free < pages)); then
        hugepages_before=${hugepages_before:-$total}
        echo $((total - free + pages)) >/proc/sys/vm/nr_hugepages
        free=$(awk '/HugePages_Free/ {print $2}' /proc/meminfo)
        ((free >= pages)) || { echo "bench: $pages hugepages of 2 MB are needed, $free are free" >&2; return 1; }
    fi
    mountpoint -q /dev/hugepages || { mkdir -p /dev/hugepages && mount -t hugetlbfs nodev /dev/hugepages; }
}

network() {
    ip netns del "$namespace" 2>/dev/null || true
    ip netns add "$namespace"
    ip -n "$namespace" link set lo up
    local device
    for device in feed0 feed1; do
        ip -n "$namespace" tuntap add dev "$device" mode tap
        ip -n "$namespace" link set "$device" address "02:70:63:61:70:0${device#feed}" up
    done
    ip -n "$namespace" addr add 198.18.0.254/16 dev feed0
    ip -n "$namespace" addr add 198.18.0.1/32 dev feed0
    ip -n "$namespace" neigh add 198.18.0.253 lladdr 02:00:00:00:c1:00 dev feed0 nud permanent
    local server
    for server in 1 2 3 4; do
        ip -n "$namespace" neigh add "198.18.100.$server" lladdr "02:00:00:00:05:0$server" dev feed0 nud permanent
    done
    ip -n "$namespace" route add default via 198.18.0.253
    # Data may come before the first packet of its flow: the kernel would refuse it, and lvsd close the connection.
    ip netns exec "$namespace" nft -f - <<<'table inet bench { chain input { type filter hook input priority 0; iifname "feed*" drop; }; }'
}

driver() { # NUMBER CAPTURE-OR-DRIVER: what DPDK is told of a device
    if [[ $2 == net_* ]]; then echo "$2"; else echo "net_pcap$1,rx_pcap=$2"; fi
}

config() { # MODE PROTOCOL SERVERS FLOWS FEED0 [FEED1]: captures or drivers; writes $work/lvsd.toml and sets $memory_mb
    local mode=$1 protocol=$2 servers=$3 flows=$4 mbufs server local_addresses=
    mbufs=$((flows * ${mbufs_per_flow:-1} + 131072))
    memory_mb=$((mbufs * 2500 / 1048576 + flows * 200 / 1048576 + 256))
    [[ $mode == fullnat ]] && local_addresses="local_addresses = [$(seq -f '"198.18.200.%g"' -s ', ' 1 100)]"
    {
        cat <<TOML
[eal]
hugepages = "require"
memory_mb = $memory_mb
main_core = 0
worker_cores = [1]
mbufs = $mbufs
[workers]
idle = "${idle:-spin}"
[connections]
ipv4_max = $((flows + flows / 8 + 1024))
ipv6_max = 1024
[timeouts]
udp_sec = ${udp_sec:-300}
[api]
socket = "$work/api.sock"
[journal]
path = "$work/journal"
[[device]]
name = "feed0"
dpdk = "$(driver 0 "$5")"
$([[ -z ${6:-} ]] || printf '[[device]]\nname = "feed1"\ndpdk = "%s"\n' "$(driver 1 "$6")")
[[service]]
protocol = "$protocol"
address = "198.18.0.1"
port = 80
scheduler = "rr"
$local_addresses
TOML
        for ((server = 1; server <= servers; server++)); do
            printf '[[service.real_server]]\naddress = "198.18.100.%s"\nport = 80\nmode = "%s"\nweight = 1\n' \
                "$server" "${mode/fullnat/nat}"
        done
    } >"$work/lvsd.toml"
}

start() {
    taskset -c "$cpus" ip netns exec "$namespace" "$bin/lvsd" --config "$work/lvsd.toml" >"$work/lvsd.log" 2>&1 &
    lvsd_pid=$!
}

# Lets nothing but the kernel interrupt the worker, as on a machine with isolated cores: for seconds only.
undisturbed() {
    if [[ -z $rt_runtime_us ]]; then
        rt_runtime_us=$(</proc/sys/kernel/sched_rt_runtime_us)
        echo -1 >/proc/sys/kernel/sched_rt_runtime_us
    fi
    local task=
    until task=$(lvsd_worker) && [[ -n $task ]]; do :; done
    chrt --fifo --pid 1 "${task##*/}"
}

stop() {
    kill "$lvsd_pid"
    wait "$lvsd_pid" || true
    lvsd_pid=
}

ctl() { "$bin/lvsctl" --socket "$work/api.sock" --json "$@"; }

conns() { ctl workers 2>/dev/null | jq '[.[] | .conns4] | add // 0' 2>/dev/null || echo 0; }

sent() { ctl workers | jq '[.[] | .tx_packets] | add'; }

await_conns() { # FLOWS
    local deadline=$((SECONDS + 90))
    until (($(conns) >= $1 * 99 / 100)); do
        if ((SECONDS > deadline)) || ! kill -0 "$lvsd_pid" 2>/dev/null; then
            echo "bench: lvsd has $(conns) of $1 connections" >&2
            cat "$work/lvsd.log" >&2
            exit 1
        fi
    done
}

worker_thread() { # PID PATTERN: the busiest thread whose name matches
    local task best=0 busiest='' time
    for task in /proc/"$1"/task/*; do
        grep -qE "$2" "$task/comm" || continue
        time=$(cut -d' ' -f1 "$task/schedstat")
        if ((time >= best)); then best=$time busiest=$task; fi
    done
    echo "$busiest"
}

lvsd_worker() { worker_thread "$lvsd_pid" '(rte|dpdk|lvsd)-worker'; }

on_cpu() { cut -d' ' -f1 "$1/schedstat"; }

median() { printf '%s\n' "$@" | sort -n | awk '{v[NR]=$1} END {print v[int((NR+1)/2)], v[1], v[NR]}'; }

windows() { # TASK COUNTER-COMMAND: median, minimum and maximum of ns/packet over five windows
    local task=$1 count=$2 figures=() _ cpu0 cpu1 sent0 sent1
    for _ in 1 2 3 4 5; do
        sent0=$($count) cpu0=$(on_cpu "$task")
        sleep 0.4
        sent1=$($count) cpu1=$(on_cpu "$task")
        figures+=("$(awk -v c=$((cpu1 - cpu0)) -v p=$((sent1 - sent0)) 'BEGIN {printf "%.1f", p ? c / p : 0}')")
    done
    median "${figures[@]}"
}

report() { # NAME FLOWS MEDIAN MIN MAX UNIT
    printf '%-24s %9s   %8s %s   (%s – %s)\n' "$1" "$2" "$3" "$6" "$4" "$5"
    rows+=("{\"scenario\":\"$1\",\"flows\":$2,\"median\":$3,\"min\":$4,\"max\":$5,\"unit\":\"$6\"}")
}

write_json() {
    [[ -z $json ]] || (IFS=, && echo "[${rows[*]}]" | jq . >"$json")
}

testpmd_sent() {
    echo "show port stats all" >&"${TESTPMD[1]}"
    local line
    while read -r -u "${TESTPMD[0]}" line; do
        if [[ $line =~ TX-packets:\ *([0-9]+) ]]; then
            echo "${BASH_REMATCH[1]}"
            return
        fi
    done
}

bench_testpmd() { # FLOWS: what DPDK itself needs for the same frames, twice: the bound
    local mbufs=$(($1 + 131072)) pid line task mode figures
    hugepages $((mbufs * 2500 / 1048576 + 256))
    coproc TESTPMD { exec taskset -c "$cpus" stdbuf -oL dpdk-testpmd --lcores 0,1 --no-pci --file-prefix lvsd-bench-bound \
        --vdev "net_pcap0,rx_pcap=$(feed ack "$1" 0),infinite_rx=1" -- -i --forward-mode=macswap --port-topology=loop \
        --total-num-mbufs=$mbufs --burst=32 2>&1; }
    pid=$TESTPMD_PID
    for mode in macswap 5tswap; do
        printf 'set fwd %s\nstart\n' "$mode" >&"${TESTPMD[1]}"
        while read -r -u "${TESTPMD[0]}" line; do [[ $line == *"packet forwarding"* ]] && break; done
        until task=$(worker_thread "$pid" '(rte|dpdk)-worker') && [[ -n $task ]]; do :; done
        figures=$(windows "$task" testpmd_sent)
        # shellcheck disable=SC2086
        report "testpmd $mode" "$1" $figures "ns/packet"
        echo stop >&"${TESTPMD[1]}"
    done
    echo quit >&"${TESTPMD[1]}"
    wait "$pid" 2>/dev/null || true
}

bench_path() { # NAME MODE PROTOCOL SERVERS FLOWS FIRST ENDLESS [PACKETS-PER-FLOW]
    local name=$1 mode=$2 protocol=$3 servers=$4 flows=$5 first=$6 endless=$7 figures
    local mbufs_per_flow=${8:-1}
    network
    config "$mode" "$protocol" "$servers" "$flows" "$(feed "$first" "$flows" 0)" "$(feed "$endless" "$flows" 1),infinite_rx=1"
    hugepages "$memory_mb"
    start
    await_conns "$flows"
    figures=$(windows "$(lvsd_worker)" sent)
    # shellcheck disable=SC2086
    report "$name" "$flows" $figures "ns/packet"
}
