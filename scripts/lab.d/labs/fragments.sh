# shellcheck shell=bash
# Datagrams of 20,000 bytes travel in fourteen fragments, both ways, and come out whole.

run_lab() {
    local family
    # net_af_packet asks the kernel to put IPv4 fragments together before DPDK sees them; a NIC does not.
    # shellcheck disable=SC2034
    DEVICE=af_xdp WORKERS=1
    nat_network 2
    # shellcheck disable=SC2034
    LOCAL4=(192.0.2.100) LOCAL6=(2001:db8:2::100)
    start_udp_echo rs1 192.0.2.11:7 "[2001:db8:2::11]:7"
    start_udp_echo rs2 192.0.2.12:7 "[2001:db8:2::12]:7"
    start_lvsd
    nat_addresses
    twin_has lan 192.0.2.100/32 2001:db8:2::100/128
    for family in $FAMILIES; do
        use_family "$family"
        balanced -u 7 7 -m
        check_large NAT 7
        # The same servers with a local address: FULLNAT.
        balanced -u 77 7 -m
        # shellcheck disable=SC2153
        lvsctl local-address set "$(udp 77)" "${LOCALS[0]}"
        check_large FULLNAT 77
        ipvsadm -Ln -u "$(vip 7)"
        ipvsadm -Ln -u "$(vip 77)"
    done
    lvsctl drops
}

# check_large MODE PORT: the first ones, small, have the neighbours resolved.
check_large() {
    check "$1: both servers answer" until_true 60 echoes "$2" 2 100
    check_datagrams "$1, 20,000 bytes each" "$VIP" "$2" --count 100 --size-bytes 20000
    check "$1, 60,000 bytes" until_true 60 echoes "$2" 2 60000
}

# echoes PORT COUNT SIZE
echoes() { in_ns client "$(program udp-load)" "$(vip "$1")" --count "$2" --flows "$2" --size-bytes "$3" >/dev/null; }
