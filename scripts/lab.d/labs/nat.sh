# shellcheck shell=bash
# NAT: both ways through the director; every scheduler an operator tries first.

run_lab() {
    local family
    nat_network 2
    start_nginx rs1 && start_nginx rs2
    start_udp_echo rs1 192.0.2.11:7 "[2001:db8:2::11]:7"
    start_udp_echo rs2 192.0.2.12:7 "[2001:db8:2::12]:7"
    start_sshd director
    start_lvsd
    nat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        round_robin
        weighted
        source_hash
        port_mapping
        check_vip_is_alive "$VIP" wan "$DIRECTOR"
    done
    title "everything at the end"
    lvsctl list
    lvsctl list --stats
}

round_robin() {
    lvsctl service add "$(tcp 80)" -s rr
    lvsctl server add "$(tcp 80)" "$(rs 1 80)" -m -w 3
    lvsctl server add "$(tcp 80)" "$(rs 2 80)" -m -w 1
    lvsctl service add "$(udp 7)" -s rr
    lvsctl server add "$(udp 7)" "$(rs 1 7)" -m
    lvsctl server add "$(udp 7)" "$(rs 2 7)" -m
    check "the first page comes" until_true 10 answers "$(url "$VIP")/" rs1 rs2
    check_alternates "$(url "$VIP")"
    check_traffic "$VIP" wan
    lvsctl list "$(tcp 80)"
    lvsctl list "$(tcp 80)" --stats
}

weighted() {
    lvsctl service edit "$(tcp 80)" -s wrr
    lvsctl stats zero
    forget_requests rs1 rs2
    check_ab 4000 20 "$(url "$VIP")"
    lvsctl list "$(tcp 80)" --stats
    if ((WORKERS == 1)); then
        equal "wrr 3:1 over 4,000 connections" "3000 1000" "$(requests_of rs1) $(requests_of rs2)"
    else
        within "wrr 3:1 over 4,000 connections, $WORKERS workers" 2900 3100 "$(requests_of rs1)"
    fi
    # ab opens a few connections more than it makes requests, at most as many as run at once.
    within "the listing counts them too" 4000 4020 "$(sum_of_column "$(tcp 80)" 1)"

    lvsctl service edit "$(tcp 80)" -s wlc
    forget_requests rs1 rs2
    check_ab 5000 100 "$(url "$VIP")"
    within "wlc gives rs1 (weight 3) its share of 5,000" 3000 4200 "$(requests_of rs1)"
}

source_hash() {
    local got
    lvsctl service edit "$(tcp 80)" -s sh
    got=$(pages 20 "$(url "$VIP")/")
    equal "sh keeps the client on one server" 1 "$(tr ' ' '\n' <<<"$got" | sort -u | wc -l)"
    check_ab 5000 100 "$(url "$VIP")"
    lvsctl list "$(tcp 80)"
}

port_mapping() {
    lvsctl service add "$(tcp 81)" -s rr
    lvsctl server add "$(tcp 81)" "$(rs 1 8080)" -m
    equal "port mapping 81 to 8080" rs1:8080 "$(page "$(url "$VIP" 81)/")"
    lvsctl service delete "$(tcp 81)"
    equal "a deleted service answers no more" "" "$(page "$(url "$VIP" 81)/")"
}
