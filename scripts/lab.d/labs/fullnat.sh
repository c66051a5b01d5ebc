# shellcheck shell=bash
# FULLNAT: real servers anywhere; they see only the director's local addresses.

run_lab() {
    local family
    fullnat_network
    start_nginx rs1 && start_nginx rs2
    start_udp_echo rs1 203.0.113.11:7 "[2001:db8:3::11]:7"
    start_udp_echo rs2 203.0.113.12:7 "[2001:db8:3::12]:7"
    start_sshd director
    start_lvsd
    fullnat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        full_nat -t 80 80
        full_nat -u 7 7
        check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
        check_alternates "$(url "$VIP")"
        check_traffic "$VIP" wan
        check_sources
        port_mapping
        check_vip_is_alive "$VIP" wan "$DIRECTOR"
        ipvsadm -Ln -t "$(vip 80)"
        ipvsadm -Ln -t "$(vip 80)" --stats
        crowd
    done
}

# Every address in the servers' logs is one of the pool.
check_sources() {
    local seen
    seen=$(awk '{ print $1 }' "$LAB_STATE"/nginx-rs[12]/access.log | sort -u | xargs)
    equal "the real servers saw only local addresses" "$(printf '%s\n' "${LOCALS[@]}" | sort | xargs)" "$seen"
    forget_requests rs1 rs2
}

port_mapping() {
    ipvsadm -A -t "$(vip 81)" -s rr
    lvsctl local-address set "$(tcp 81)" "${LOCALS[0]}"
    ipvsadm -a -t "$(vip 81)" -r "$(rs 1 8080)" -m
    equal "port mapping 81 to 8080" rs1:8080 "$(page "$(url "$VIP" 81)/")"
    forget_requests rs1 rs2
}

# A process may hold few files where the limit is low, so several share a crowd.
OPENERS=4 HOLDERS=2

# Sixty thousand connections at once through one local address to two real servers.
crowd() {
    local count=60000 n
    [[ $QUICK == true ]] && count=6000
    title "$count connections at once through ${LOCALS[0]}"
    full_nat -t 9000 9000 "${LOCALS[0]}"
    start_holders
    open_crowd "$count"
    cat "$LAB_STATE"/crowd-?.log
    equal "all are open" "$count" "$(crowd_sum opened)"
    for n in 1 2; do
        # Each worker takes turns by itself, so with several one server may be a few ahead.
        within "rs$n holds half of them" $((count / 2 - WORKERS + 1)) $((count / 2 + WORKERS - 1)) \
            "$(hold_status "$n" | awk '$1 == "held" { sum += $2 } END { print sum }')"
        equal "rs$n sees one local address only" "${LOCALS[0]}" \
            "$(hold_status "$n" | awk '$1 == "from" { print $2 }' | sort -u | xargs)"
    done
    ipvsadm -Ln -t "$(vip 9000)"
    close_crowd
    equal "every one was alive to the end" "$count" "$(crowd_sum alive)"
    stop_holders
    ipvsadm -D -t "$(vip 9000)"
}

# crowd_sum WORD: what the openers tell, added up.
crowd_sum() { cat "$LAB_STATE"/crowd-?.log | awk -v word="$1" '$1 == word { sum += $2 } END { print sum + 0 }'; }

start_holders() {
    local n holder
    HOLD_PIDS=()
    for n in 1 2; do
        set_sysctl "rs$n" net.core.somaxconn=4096
        for ((holder = 1; holder <= HOLDERS; holder++)); do
            start "rs$n" "hold-$holder" "$(program tcp-hold)" serve "$(rs "$n" 9000)" --status "$(rs "$n" $((9000 + holder)))"
            HOLD_PIDS+=($!)
            wait_listen "rs$n" $((9000 + holder))
        done
    done
}

stop_holders() {
    kill "${HOLD_PIDS[@]}"
    wait "${HOLD_PIDS[@]}" || true
}

# hold_status N: what the holders on rsN tell.
hold_status() {
    local holder
    for ((holder = 1; holder <= HOLDERS; holder++)); do
        in_ns "rs$1" socat -u "TCP:$(rs "$1" $((9000 + holder)))" -
    done
}

# open_crowd COUNT: opens and holds until close_crowd.
open_crowd() {
    local opener client=$CROWD4
    [[ $VIP == *:* ]] && client=$CROWD6
    rm -f "$LAB_STATE"/crowd-?.log
    mkfifo "$LAB_STATE/crowd"
    CROWD_PIDS=()
    # Kept open here for writing, so that the openers' standard input does not end.
    exec 9<>"$LAB_STATE/crowd"
    for ((opener = 0; opener < OPENERS; opener++)); do
        ip netns exec "$(ns client)" "$(program tcp-hold)" open "$(host_of "$VIP"):9000" --count $(($1 / OPENERS)) \
            --from "$client" --first-port $((1024 + opener * 16000)) \
            <"$LAB_STATE/crowd" 9>&- >"$LAB_STATE/crowd-$opener.log" &
        CROWD_PIDS+=($!)
        remember $! "crowd-$opener"
    done
    until_true 180 all_opened || true
}

all_opened() { (($(cat "$LAB_STATE"/crowd-?.log 2>/dev/null | grep -c '^opened') == OPENERS)); }

close_crowd() {
    exec 9>&-
    wait "${CROWD_PIDS[@]}" || true
    rm "$LAB_STATE/crowd"
}
