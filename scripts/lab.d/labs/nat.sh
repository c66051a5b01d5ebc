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
        own_client
        check_vip_is_alive "$VIP" wan "$DIRECTOR"
    done
    title "everything at the end"
    ipvsadm -Ln
    ipvsadm -Ln --stats
}

round_robin() {
    ipvsadm -A -t "$(vip 80)" -s rr
    ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -m -w 3
    ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -m -w 1
    ipvsadm -A -u "$(vip 7)" -s rr
    ipvsadm -a -u "$(vip 7)" -r "$(rs 1 7)" -m
    ipvsadm -a -u "$(vip 7)" -r "$(rs 2 7)" -m
    check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check_alternates "$(url "$VIP")"
    check_traffic "$VIP" wan
    ipvsadm -Ln -t "$(vip 80)"
    ipvsadm -Ln -t "$(vip 80)" --stats
}

weighted() {
    ipvsadm -E -t "$(vip 80)" -s wrr
    ipvsadm -Z
    forget_requests rs1 rs2
    check_ab 4000 20 "$(url "$VIP")"
    if ((WORKERS == 1)); then
        equal "wrr 3:1 over 4,000 connections" "3000 1000" "$(requests_of rs1) $(requests_of rs2)"
    else
        within "wrr 3:1 over 4,000 connections, $WORKERS workers" 2900 3100 "$(requests_of rs1)"
    fi
    # ab opens a few connections more than it makes requests, at most as many as run at once.
    check "the listing counts them too, once the estimator has run" until_true 60 counts_conns 4000 4020
    ipvsadm -Ln -t "$(vip 80)" --stats
    check_both_ways

    ipvsadm -E -t "$(vip 80)" -s wlc
    forget_requests rs1 rs2
    check_ab 5000 100 "$(url "$VIP")"
    within "wlc gives rs1 (weight 3) the larger share of 5,000" 2600 4400 "$(requests_of rs1)"
}

counts_conns() {
    local conns
    conns=$(sum_of_column "$(vip 80)" 1)
    ((conns >= $1 && conns <= $2))
}

# In = out but for what TCP answers together: about as many packets each way.
check_both_ways() {
    local in out
    in=$(sum_of_column "$(vip 80)" 2)
    out=$(sum_of_column "$(vip 80)" 3)
    within "packets out, with $in in" $((in * 9 / 10)) $((in * 11 / 10)) "$out"
}

source_hash() {
    local got
    ipvsadm -E -t "$(vip 80)" -s sh
    got=$(pages 20 "$(url "$VIP")/")
    equal "sh keeps the client on one server" 1 "$(tr ' ' '\n' <<<"$got" | sort -u | wc -l)"
    check_ab 5000 100 "$(url "$VIP")"
    ipvsadm -Ln -t "$(vip 80)"
}

port_mapping() {
    ipvsadm -A -t "$(vip 81)" -s rr
    ipvsadm -a -t "$(vip 81)" -r "$(rs 1 8080)" -m
    equal "port mapping 81 to 8080" rs1:8080 "$(page "$(url "$VIP" 81)/")"
    ipvsadm -D -t "$(vip 81)"
    equal "a deleted service answers no more" "" "$(page "$(url "$VIP" 81)/")"
}

# The director as a client of its own service: a rule sends its packets to the VIP out by a twin.
own_client() {
    local six="" neighbour=$CLIENT4
    [[ $VIP == *:* ]] && six=-6 neighbour=$CLIENT6
    title "the director as a client"
    ipvsadm -E -t "$(vip 80)" -s rr
    equal "what the director sends to its VIP stays in its kernel" "" "$(own_page)"
    director_types ip $six rule add pref 200 lookup local
    director_types ip $six rule del pref 0 lookup local
    director_types ip $six rule add pref 100 iif lo to "$VIP" ipproto tcp dport 80 lookup 100
    director_types ip $six route add "$VIP" via "$neighbour" dev wan src "$DIRECTOR" table 100
    [[ -n $six ]] || director_types sysctl -qw net.ipv4.conf.wan.accept_local=1 net.ipv4.conf.lan.accept_local=1
    check "it gets a page of rs1" until_true 60 own_page_is rs1
    check "and of rs2" until_true 60 own_page_is rs2
    equal "a download of its own is whole" "$(sum_of part)" \
        "$({ on_director curl -s --max-time 100 "$(url "$VIP")/files/part" || true; } | sha256sum | cut -d' ' -f1)"
    check "clients are served as before" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    director_types ip $six rule add pref 0 lookup local
    director_types ip $six rule del pref 200
    director_types ip $six rule del pref 100
    equal "without the rule its kernel refuses again" "" "$(own_page)"
}

own_page() { on_director curl -s --max-time 5 "$(url "$VIP")/" || true; }
own_page_is() { [[ $(own_page) == "$1" ]]; }
