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
        lvsctl service add "$(tcp 80)" -s rr
        lvsctl local-address set "$(tcp 80)" "${LOCALS[@]}"
        lvsctl server add "$(tcp 80)" "$(rs 1 80)" -m
        lvsctl server add "$(tcp 80)" "$(rs 2 80)" -m
        lvsctl service add "$(udp 7)" -s rr
        lvsctl local-address set "$(udp 7)" "${LOCALS[@]}"
        lvsctl server add "$(udp 7)" "$(rs 1 7)" -m
        lvsctl server add "$(udp 7)" "$(rs 2 7)" -m
        check "the first page comes" until_true 10 answers "$(url "$VIP")/" rs1 rs2
        check_alternates "$(url "$VIP")"
        check_traffic "$VIP" wan
        check_sources
        port_mapping
        check_vip_is_alive "$VIP" wan "$DIRECTOR"
        lvsctl list "$(tcp 80)"
        lvsctl list "$(tcp 80)" --stats
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
    lvsctl service add "$(tcp 81)" -s rr
    lvsctl local-address set "$(tcp 81)" "${LOCALS[0]}"
    lvsctl server add "$(tcp 81)" "$(rs 1 8080)" -m
    equal "port mapping 81 to 8080" rs1:8080 "$(page "$(url "$VIP" 81)/")"
    forget_requests rs1 rs2
}

# Sixty thousand connections at once through one local address to two real servers.
crowd() {
    local count=60000 held from_pool n
    [[ $QUICK == true ]] && count=6000
    title "$count connections at once through ${LOCALS[0]}"
    for n in 1 2; do
        set_sysctl "rs$n" net.core.somaxconn=4096
        start "rs$n" "hold-$n" "$(program tcp-hold)" serve "$(rs "$n" 9000)" --status "$(rs "$n" 9001)"
        wait_listen "rs$n" 9001
    done
    lvsctl service add "$(tcp 9000)" -s rr
    lvsctl local-address set "$(tcp 9000)" "${LOCALS[0]}"
    lvsctl server add "$(tcp 9000)" "$(rs 1 9000)" -m
    lvsctl server add "$(tcp 9000)" "$(rs 2 9000)" -m
    open_crowd "$count" "$(host_of "$VIP"):9000"
    held=$(cat "$LAB_STATE/crowd.log")
    equal "all open" "opened $count of $count" "$held"
    for n in 1 2; do
        from_pool=$(hold_status "$n")
        within "rs$n holds its half: $(xargs <<<"$from_pool")" $((count / 2 - 300)) $((count / 2 + 300)) \
            "$(awk '/^held/ { print $2 }' <<<"$from_pool")"
        equal "rs$n sees one local address only" "${LOCALS[0]}" "$(awk '/^from/ { print $2 }' <<<"$from_pool" | xargs)"
    done
    lvsctl list "$(tcp 9000)"
    close_crowd
    equal "every one was alive to the end" "alive $count of $count" "$(tail -n 1 "$LAB_STATE/crowd.log")"
    for n in 1 2; do
        end_of_hold "$n"
    done
    lvsctl service delete "$(tcp 9000)"
}

# open_crowd COUNT TARGET: opens and holds until close_crowd.
open_crowd() {
    local source=$CLIENT4,198.51.100.3
    if [[ $2 == \[* ]]; then
        source=$CLIENT6,2001:db8:1::3
    fi
    in_ns client ip addr replace "${source#*,}/$([[ $2 == \[* ]] && echo 64 || echo 24)" dev eth0
    mkfifo "$LAB_STATE/crowd"
    in_ns client "$(program tcp-hold)" open "$2" --count "$1" --from "$source" \
        <"$LAB_STATE/crowd" >"$LAB_STATE/crowd.log" &
    CROWD=$!
    remember "$CROWD" crowd
    exec 9>"$LAB_STATE/crowd"
    until_true 120 test -s "$LAB_STATE/crowd.log"
}

close_crowd() {
    exec 9>&-
    wait "$CROWD" || true
    rm "$LAB_STATE/crowd"
}

hold_status() { in_ns "rs$1" socat -u "TCP:$(rs "$1" 9001)" -; }

end_of_hold() {
    local pid
    pid=$(awk -v name="rs$1-hold-$1" '$2 == name { pid = $1 } END { print pid }' "$LAB_STATE/pids")
    kill "$pid"
    wait "$pid" || true
}
