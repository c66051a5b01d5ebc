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
        until_true 60 in_ns "$host" ip link show tunl >/dev/null
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
        other_wrappings
        path_mtu
        ipvsadm -Ln -t "$(vip 80)"
        ipvsadm -Ln -t "$(vip 80)" --stats
    done
    if [[ $FAMILIES == "4 6" ]]; then
        mixed_families
    fi
}

tunnel_services() {
    balanced -t 80 80 -i
    balanced -u 7 7 -i
    check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
}

# Outer header: from the address that the kernel would take to the real server; nothing comes back through the director.
check_wrapping() {
    local source wrapped
    source=$(source_towards "${RS[1]}")
    capture rs1 eth0 server host "${RS[1]}"
    pages 4 "$(url "$VIP")/" >/dev/null
    until_true 60 some_frames server src host "$source" || true
    stop_capture
    wrapped=$(frames server src host "$source" and dst host "${RS[1]}")
    within "requests come wrapped from $source to ${RS[1]}" 1 1000 "$wrapped"
    equal "the real server sends nothing to the director" 0 "$(frames server src host "${RS[1]}" and dst host "$DIRECTOR" and not arp)"
}

# source_towards ADDRESS: from which address the director's kernel sends there. Of several IPv6 addresses on a device that
# suit equally the kernel takes the newest, which is the VIP here.
source_towards() { in_ns director ip -o route get "$1" | sed -n 's/.* src \([^ ]*\) .*/\1/p'; }

# GRE and GUE, with and without checksum; the end drops what its checksum does not fit.
other_wrappings() {
    title "other wrappings"
    ipvsadm -A -t "$(vip 8080)" -s rr
    ipvsadm -a -t "$(vip 8080)" -r "$(rs 1 8080)" -i --tun-type gre
    check_wrapped_in "GRE" proto 47
    ipvsadm -e -t "$(vip 8080)" -r "$(rs 1 8080)" -i --tun-type gre --tun-csum
    check_wrapped_in "GRE with checksum" proto 47
    ipvsadm -e -t "$(vip 8080)" -r "$(rs 1 8080)" -i --tun-type gue --tun-port 6080
    check_wrapped_in "GUE" udp dst port 6080
    ipvsadm -e -t "$(vip 8080)" -r "$(rs 1 8080)" -i --tun-type gue --tun-port 6080 --tun-csum
    check_wrapped_in "GUE with checksum" udp dst port 6080
    ipvsadm -e -t "$(vip 8080)" -r "$(rs 1 8080)" -i --tun-type gue --tun-port 6080 --tun-remcsum
    check_wrapped_in "GUE with remote checksum" udp dst port 6080
    ipvsadm -Ln --tun-info -t "$(vip 8080)"
    ipvsadm -D -t "$(vip 8080)"
}

# check_wrapped_in WORD FILTER...: a page and an upload of full packets come through, and travelled so.
check_wrapped_in() {
    local word=$1
    shift
    capture rs1 eth0 wrapped "$@"
    check "$word: a page comes" until_true 60 answers "$(url "$VIP" 8080)/" rs1:8080
    equal "$word: full packets get through" rs1:8080 \
        "$(in_ns client curl -s --max-time 20 --data-binary "@$LAB_STATE/files/part" "$(url "$VIP" 8080)/" || true)"
    check "$word: that is how they travelled" until_true 60 some_frames wrapped "$@"
    stop_capture
}

# tracepath finds 20 bytes less behind the director (40 in IPv6), and another 100 less where a link is narrow. Of
# IPv6 tunnels no narrow link is learned, as in the kernel.
path_mtu() {
    local head=20 narrow=1400 said
    [[ $VIP == *:* ]] && head=40 narrow=1500
    title "path MTU"
    in_ns router ip link set far1 mtu "$narrow"
    in_ns rs1 ip link set eth0 mtu "$narrow"
    ipvsadm -A -u "$(vip 0)" -s rr -p 60
    ipvsadm -a -u "$(vip 0)" -r "$(rs 1 0)" -i
    in_ns client ip route flush cache
    in_ns client ip -6 route flush cache
    typed client "tracepath -n $VIP"
    said=$(in_ns client tracepath -n -m 8 "$VIP" || true)
    echo "$said"
    check "the tunnel's MTU is found: $((1500 - head))" grep -q "pmtu $((1500 - head))" <<<"$said"
    check "that of the way: $((narrow - head))" grep -q "Resume: pmtu $((narrow - head))" <<<"$said"
    check "the real server is reached" grep -q reached <<<"$said"
    ipvsadm -D -u "$(vip 0)"
    check "TCP gets through as well" until_true 60 upload_to_rs1
    in_ns router ip link set far1 mtu 1500
    in_ns rs1 ip link set eth0 mtu 1500
}

upload_to_rs1() {
    ipvsadm_quiet -A -t "$(vip 8080)" -s rr
    ipvsadm_quiet -a -t "$(vip 8080)" -r "$(rs 1 8080)" -i
    local said
    said=$(in_ns client curl -s --max-time 20 --data-binary "@$LAB_STATE/files/part" "$(url "$VIP" 8080)/" || true)
    ipvsadm_quiet -D -t "$(vip 8080)"
    [[ $said == rs1:8080 ]]
}

# IPv4 inside IPv6 and IPv6 inside IPv4.
mixed_families() {
    title "mixed families"
    VIP=$VIP4
    ipvsadm -A -t "$(vip 8080)" -s rr
    ipvsadm -a -t "$(vip 8080)" -r "$(host_of "${RS6[0]}"):8080" -i
    check "IPv4 in IPv6" until_true 60 answers "$(url "$VIP" 8080)/" rs1:8080
    VIP=$VIP6
    ipvsadm -A -t "$(vip 8080)" -s rr
    ipvsadm -a -t "$(vip 8080)" -r "${RS4[0]}:8080" -i
    check "IPv6 in IPv4" until_true 60 answers "$(url "$VIP" 8080)/" rs1:8080
    ipvsadm -Ln
}
