# shellcheck shell=bash
# Direct routing: the director changes the MAC only; the answer goes round it.

run_lab() {
    local family
    dr_network
    start_nginx rs1 && start_nginx rs2
    start_udp_echo rs1 192.0.2.80:7 "[2001:db8:2::80]:7"
    start_udp_echo rs2 192.0.2.80:7 "[2001:db8:2::80]:7"
    start_sshd director
    start_lvsd
    one_armed_addresses
    for family in $FAMILIES; do
        use_family "$family"
        balanced -t 80 80 -g
        balanced -u 7 7 -g
        check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
        check_alternates "$(url "$VIP")"
        check_way
        check_traffic "$VIP" lan
        check_silence
        check_ssh_to_director "$DIRECTOR"
        ipvsadm -Ln -t "$(vip 80)"
        ipvsadm -Ln -t "$(vip 80)" --stats
        lvsctl service edit "$(tcp 80)" --reset-unknown true
        check_lost_table one_armed_addresses rs1 rs2
    done
}

# Frames as the director and a real server see them.
check_way() {
    local mac client=$CLIENT4
    [[ $VIP == *:* ]] && client=$CLIENT6
    mac=$(in_ns director cat /sys/class/net/lan/address)
    capture director lan0 director tcp port 80 and host "$VIP"
    local at_director=$CAPTURE
    capture rs1 eth0 server tcp port 80 and host "$VIP"
    pages 4 "$(url "$VIP")/" >/dev/null
    until_true 60 seen_to_their_end director 4 dst host "$VIP" || true
    until_true 60 seen_to_their_end server 2 dst host "$VIP" || true
    stop_capture
    CAPTURE=$at_director
    stop_capture
    equal "no answer passes the director" 0 "$(frames director src host "$VIP")"
    check "requests pass it" some_frames director dst host "$VIP"
    equal "at the server all requests come from the director's MAC" \
        "$(frames server dst host "$VIP")" "$(frames server ether src "$mac" and dst host "$VIP")"
    equal "with the client's own address" "$(frames server dst host "$VIP")" \
        "$(frames server src host "$client" and dst host "$VIP")"
}

# The router knows the VIP by the director's MAC alone.
check_silence() {
    local mac seen
    mac=$(in_ns director cat /sys/class/net/lan/address)
    in_ns router ip neigh flush to "$VIP" || true
    page "$(url "$VIP")/" >/dev/null
    seen=$(in_ns router ip neigh show "$VIP" | awk '{ for (i = 1; i < NF; i++) if ($i == "lladdr") print $(i + 1) }')
    equal "nobody but the director tells its MAC for the VIP" "$mac" "$seen"
}
