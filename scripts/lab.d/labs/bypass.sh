# shellcheck shell=bash
# A cluster of caches before the web: marked packets to any address go to a cache, and past it when there is none.

run_lab() {
    nat_network 2
    start_nginx rs1 && start_nginx rs2
    start_lvsd
    nat_addresses
    use_family 4
    # The client's way to the web leads over the director, and the web's answers back over its kernel.
    director_types sysctl -w net.ipv4.ip_forward=1
    in_ns client ip route add 192.0.2.0/24 via "$DIRECTOR"
    lvsctl mark add 66 --protocol tcp --destination 192.0.2.0/24 --destination-ports 80 --device wan --divert
    ipvsadm -A -f 66 -s rr
    equal "a mark without servers: nobody answers" "" "$(page "$(url "${RS[1]}")/")"
    lvsctl sysctl cache_bypass=1
    check "cache_bypass: the web itself answers" until_true 60 answers "$(url "${RS[1]}")/" rs1
    ipvsadm -a -f 66 -r "${RS[2]}" -m
    check "with a cache: the cache answers in its place" until_true 60 answers "$(url "${RS[1]}")/" rs2
    ipvsadm -Ln
    ipvsadm -Lnc
    ipvsadm -d -f 66 -r "${RS[2]}"
    check "without it again: the web" until_true 60 answers "$(url "${RS[1]}")/" rs1
}
