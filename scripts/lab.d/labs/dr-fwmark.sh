# shellcheck shell=bash
# DR with a firewall mark: one client's http and https reach the same server.

run_lab() {
    local family
    # Marks are lvsd's own, for netfilter sees nothing of a DPDK device: one of its file ...
    # shellcheck disable=SC2034
    MORE_CONFIG='
[[mark]]
mark = 66
protocol = "tcp"
destination = "192.0.2.80"
destination_ports = ["80", "443"]
'
    dr_network
    start_nginx rs1 && start_nginx rs2
    start_lvsd
    one_armed_addresses
    # ... and one that is typed.
    lvsctl mark add 66 --protocol tcp --destination 2001:db8:2::80 --destination-ports 80,443
    lvsctl mark list
    for family in $FAMILIES; do
        use_family "$family"
        if [[ $family == 4 ]]; then SIX=(); else SIX=(-6); fi
        ipvsadm -A -f 66 "${SIX[@]}" -s rr -p 360
        ipvsadm -a -f 66 "${SIX[@]}" -r "$(bare_rs 1)" -g
        ipvsadm -a -f 66 "${SIX[@]}" -r "$(bare_rs 2)" -g
        check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
        check_together
        ipvsadm -Ln -f 66 "${SIX[@]}"
        ipvsadm -Ln -f 66 "${SIX[@]}" --persistent-conn
        ipvsadm -Lnc
    done
    lvsctl drops
}

# bare_rs N: without a port the server has the one that packets come with; in IPv6 ipvsadm wants it said.
bare_rs() { if [[ $VIP == *:* ]]; then rs "$1" 0; else echo "${RS[$1]}"; fi; }

# pages_from ADDRESS: a client's pages, http and https in turn.
pages_from() {
    local n
    for ((n = 0; n < 4; n++)); do
        in_ns client curl -sk --max-time 10 --interface "$1" "$(url "$VIP")/"
        in_ns client curl -sk --max-time 10 --interface "$1" "https://$(host_of "$VIP")/"
    done | sort | uniq -c | awk '{ print $2 "*" $1 }' | xargs
}

is_one_each() { [[ "$1 $2" =~ ^rs[12]\*8\ rs[12]\*8$ ]]; }

check_together() {
    local client=$CLIENT4 crowd=$CROWD4 first second template
    [[ $VIP == *:* ]] && client=$CLIENT6 crowd=$CROWD6
    first=$(pages_from "$client")
    second=$(pages_from "$crowd")
    check "each client has http and https on one server ($first, $second)" is_one_each "$first" "$second"
    if ((WORKERS == 1)); then
        check "each on one of its own" test "$first" != "$second"
    fi
    equal "the servers answer round the director: it counts nothing out" 0 \
        "$(ipvsadm_quiet -Ln -f 66 "${SIX[@]}" --stats --exact | rows | awk '{ sum += $5 } END { print sum }')"
    template=$(ipvsadm_quiet -Lnc | awk -v client="$(host_of "$client"):0" '$1 == "IP" && $4 == client' | wc -l)
    equal "one template of the mark for both its ports" 1 "$template"
}
