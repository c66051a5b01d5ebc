# shellcheck shell=bash
# The daemon is killed, or ends and starts again, under downloads: NAT and FULLNAT. No connection is lost.

run_lab() {
    local family
    fullnat_network
    # The real servers' way back is the director for NAT, or the local addresses of FULLNAT.
    in_ns gateway ip route add 198.51.100.0/24 via 192.0.2.1
    in_ns gateway ip route add 2001:db8:1::/64 via 2001:db8:2::1
    forward director
    start_nginx rs1 && start_nginx rs2
    make_twins
    start_lvsd
    fullnat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        ipvsadm -A -t "$(vip 80)" -s rr -p 60
        ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -m
        ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -m
        full_nat -t 81 80
        check "pages come by NAT" until_true 60 answers "$(url "$VIP")/" rs1 rs2
        check "pages come by FULLNAT" until_true 60 answers "$(url "$VIP" 81)/" rs1 rs2
        restart_under KILL 80
        restart_under TERM 80
        restart_under KILL 81
        restart_under TERM 81
    done
    forget
}

# lasting PORT: connections to it and their templates as listed, but for the time that they have left. What has ended
# would leave the listing at any moment.
lasting() {
    ipvsadm_quiet -Lnc | awk -v vip="$(vip "$1")" '$5 == vip && $3 ~ /^(ESTABLISHED|ASSURED|NONE)$/ { $2 = ""; print }' | sort
}

all_established() { (($(lasting "$1" | grep -c ESTABLISHED) == 4)); }

# restart_under SIGNAL PORT: four downloads run, lvsd ends and starts again.
restart_under() {
    local before said
    title "lvsd ends by $1 under downloads from port $2"
    start_downloads 4 "$(url "$VIP" "$2")"
    check "downloads run" until_true 60 all_established "$2"
    before=$(lasting "$2")
    end_lvsd "$1"
    run_lvsd
    equal "their connections are listed as before" "$before" "$(lasting "$2")"
    equal "and counted at their servers" 4 "$(active_conns "$(vip "$2")")"
    check_downloads
    said=$(grep -oE 'connections of the lvsd before: [0-9]+ go on' "$LAB_STATE/$AT-lvsd.log" || true)
    check "the log says: ${said:-nothing}" test -n "$said"
    echo "note  $(grep -oE 'started in .*' "$LAB_STATE/$AT-lvsd.log" || true)"
}

forget() {
    title "the memory is given back"
    check "connections lie in $(state_dir)" test -s "$(state_dir)/worker-0"
    end_lvsd TERM
    check "and stay there without lvsd" test -s "$(state_dir)/worker-0"
    forget_connections
    check "until they are forgotten" test ! -e "$(state_dir)"
    run_lvsd
    equal "an lvsd that starts then has none" "" "$(lasting 80)$(lasting 81)"
}
