# shellcheck shell=bash
# Tunnelling: the packet travels inside another one; the answer goes straight to the client.

run_lab() {
    local family host
    tun_network
    start_nginx rs1 && start_nginx rs2
    start_udp_echo rs1 192.0.2.80:7 "[2001:db8:2::80]:7"
    start_udp_echo rs2 192.0.2.80:7 "[2001:db8:2::80]:7"
    for host in rs1 rs2; do
        start "$host" tunnel "$(program tunnel-endpoint)" --interface tunl
        until_true 5 in_ns "$host" ip link show tunl >/dev/null
    done
    start_sshd director
    start_lvsd
    one_armed_addresses
    for family in $FAMILIES; do
        use_family "$family"
        tunnel_services
        check_alternates "$(url "$VIP")"
        check_wrapping
        check_traffic "$VIP" lan
        check_ssh_to_director "$DIRECTOR"
        ipvsadm -Ln -t "$(vip 80)"
        ipvsadm -Ln -t "$(vip 80)" --stats
    done
    if [[ $FAMILIES == "4 6" ]]; then
        mixed_families
    fi
}

tunnel_services() {
    ipvsadm -A -t "$(vip 80)" -s rr
    ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -i
    ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -i
    ipvsadm -A -u "$(vip 7)" -s rr
    ipvsadm -a -u "$(vip 7)" -r "$(rs 1 7)" -i
    ipvsadm -a -u "$(vip 7)" -r "$(rs 2 7)" -i
    check "the first page comes" until_true 10 answers "$(url "$VIP")/" rs1 rs2
}

# Outer header: from the director to the real server; nothing comes back through the director.
check_wrapping() {
    local wrapped
    capture rs1 eth0 server host "${RS[1]}"
    pages 4 "$(url "$VIP")/" >/dev/null
    until_true 5 some_frames server src host "$DIRECTOR" || true
    stop_capture
    wrapped=$(frames server src host "$DIRECTOR" and dst host "${RS[1]}")
    within "requests come wrapped from $DIRECTOR to ${RS[1]}" 1 1000 "$wrapped"
    equal "the real server sends nothing to the director" 0 "$(frames server src host "${RS[1]}" and dst host "$DIRECTOR" and not arp)"
}

# IPv4 inside IPv6 and IPv6 inside IPv4.
mixed_families() {
    title "mixed families"
    VIP=$VIP4
    ipvsadm -A -t "$(vip 8080)" -s rr
    ipvsadm -a -t "$(vip 8080)" -r "$(host_of "${RS6[0]}"):8080" -i
    check "IPv4 in IPv6" until_true 10 answers "$(url "$VIP" 8080)/" rs1:8080
    VIP=$VIP6
    ipvsadm -A -t "$(vip 8080)" -s rr
    ipvsadm -a -t "$(vip 8080)" -r "${RS4[0]}:8080" -i
    check "IPv6 in IPv4" until_true 10 answers "$(url "$VIP" 8080)/" rs1:8080
    ipvsadm -Ln
}
