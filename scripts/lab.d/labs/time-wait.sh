# shellcheck shell=bash
# FULLNAT never meets a server's TIME_WAIT: local ports come round under a steady load, and no connection waits.

run_lab() {
    local family
    fullnat_network
    start_nginx rs1
    more_clients
    start_lvsd
    fullnat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        ipvsadm -A -t "$(vip 80)" -s rr
        lvsctl local-address set "$(tcp 80)" "${LOCALS[0]}"
        ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -m
        check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1
        one_client
        many_clients
        ipvsadm -D -t "$(vip 80)"
    done
}

# Addresses of the client beside its own.
CLIENTS=20

more_clients() {
    local n
    for ((n = 0; n <= CLIENTS; n++)); do
        in_ns client ip addr add "198.51.100.$((100 + n))/24" dev eth0
        in_ns client ip addr add "2001:db8:1::$((100 + n))/64" dev eth0 nodad preferred_lft 0
    done
}

# client_address N: its address number N in the family's round.
client_address() {
    if [[ $VIP == *:* ]]; then
        echo "2001:db8:1::$((100 + $1))"
    else
        echo "198.51.100.$((100 + $1))"
    fi
}

# One client whose own ports come round keeps its local ports: nothing is shifted, as with NAT.
one_client() {
    local before run
    title "one client whose ports come round"
    before=$(counters)
    for run in 1 2 3; do
        load "one-$run" 20000 "$(client_address 0)"
    done
    no_second_lost "one client" "$before" 60000
    equal "its local ports count as rested" 0 "$(unrested)"
    check "status says so" status_says "rest before they are used again"
}

# More connections in a minute than there are ports, from clients whose ports do not come round.
many_clients() {
    local before n
    title "more new connections than ports can rest for"
    before=$(counters)
    watch_status &
    for ((n = 1; n <= CLIENTS; n++)); do
        load "$n" 5000 "$(client_address "$n")"
    done
    wait $!
    no_second_lost "$CLIENTS clients" "$before" $((CLIENTS * 5000))
    within "connections began on ports that had not rested" 10000 $((CLIENTS * 5000)) "$(unrested)"
    check "status names the service meanwhile" grep -qF "did not rest in the last second: $(tcp 80)" "$LAB_STATE/status.log"
    forget_requests rs1
}

# load NAME COUNT ADDRESS: a crowd of short requests from the address, each a connection.
load() {
    local report=$LAB_STATE/ab-$1.log
    in_ns client ab -q -s 40 -n "$2" -c 60 -B "$3" "$(url "$VIP")/" >"$report" 2>&1 || true
    LONGEST=$(awk '/^ +100%/ { print $2 }' "$report")
    if grep -Eq "^Complete requests: +$2$" "$report" && grep -Eq '^Failed requests: +0$' "$report" &&
        ((LONGEST < 1000)); then
        pass "$2 from $3: $(awk '/^Requests per second/ { print $4 }' "$report") a second, the longest $LONGEST ms"
    else
        fail "$2 from $3: one failed or took a second"
        cat "$report"
    fi
}

# counters: SYNs that the server refused in TIME_WAIT or challenged, and SYNs that the client sent again.
counters() {
    in_ns rs1 nstat -asz PAWSTimewait TcpExtTCPSYNChallenge | awk '!/^#/ { sum += $2 } END { print sum + 0 }'
    in_ns client nstat -asz TcpExtTCPSynRetrans | awk '!/^#/ { sum += $2 } END { print sum + 0 }'
}

# no_second_lost SENTENCE COUNTERS-BEFORE CONNECTIONS: at most one in ten thousand was refused or sent again.
no_second_lost() {
    local before now
    read -r -d '' -a before <<<"$2" || true
    read -r -d '' -a now <<<"$(counters)" || true
    within "$1: SYNs that met TIME_WAIT" 0 $(($3 / 10000)) $((now[0] - before[0]))
    within "$1: SYNs sent again" 0 $(($3 / 10000)) $((now[1] - before[1]))
}

# unrested: connections of the service since start whose local port had not rested.
unrested() { lvsctl_quiet list "$(tcp 80)" --json | jq '[.. | .local_ports_unrested? // empty] | add'; }

status_says() { lvsctl_quiet status | grep -q "$1"; }

watch_status() {
    until_true 120 is_short_by_status || true
}

# The status that says so is kept.
is_short_by_status() {
    lvsctl_quiet status >"$LAB_STATE/status.log"
    grep -q "did not rest" "$LAB_STATE/status.log"
}
