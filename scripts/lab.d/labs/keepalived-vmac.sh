# shellcheck shell=bash
# use_vmac: the VIP has VRRP's own MAC address, of a macvlan on the twin, and takes it along to the other director.

# shellcheck source=scripts/lab.d/takeover.sh
source "$LAB_HOME/scripts/lab.d/takeover.sh"
# shellcheck source=scripts/lab.d/keepalived_blocks.sh
source "$LAB_HOME/scripts/lab.d/keepalived_blocks.sh"

# The MAC addresses of routers 51 and 52 (RFC 9568 7.3).
WAN4=00:00:5e:00:01:33 WAN6=00:00:5e:00:02:33 LAN4=00:00:5e:00:01:34 LAN6=00:00:5e:00:02:34

run_lab() {
    has_macvlan || {
        echo "not here: this kernel has no macvlan"
        return
    }
    start_pair write_vmac
    comes_up
    who_says_it
    both_families_are_balanced
    moves
    moves_back
}

# write_vmac PRIORITY: adverts go out by the macvlan (OUTSIDE4, INSIDE6) or by the twin (vmac_xmit_base). Sources are filtered
# strictly; keepalived makes an exception of its macvlans.
write_vmac() {
    set_sysctl "$AT" net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1
    begin_conf "lvs_sync_daemon lan OUTSIDE4 id 7"
    conf block "vrrp_sync_group PAIR" "$(block group OUTSIDE4 OUTSIDE6 INSIDE4 INSIDE6)"
    conf vrrp_instance OUTSIDE4 wan 51 "$1" "$VIP4/32" "use_vmac"
    conf vrrp_instance OUTSIDE6 wan 51 "$1" "fe80::5:1/64 $VIP6/128" "use_vmac" "vmac_xmit_base"
    conf vrrp_instance INSIDE4 lan 52 "$1" "192.0.2.1/24" "use_vmac" "vmac_xmit_base"
    conf vrrp_instance INSIDE6 lan 52 "$1" "fe80::5:2/64 2001:db8:2::1/64" "use_vmac"
    conf checked 80 TCP "$(block TCP_CHECK "connect_timeout 10")"
    use_family 6 >/dev/null
    conf checked 80 TCP "$(block TCP_CHECK "connect_timeout 10")"
    use_family 4 >/dev/null
}

# reaches HOST ADDRESS MAC: whether the host's neighbour entry of the address is this.
reaches() { [[ $(in_ns "$1" ip neigh show "$2") == *"lladdr $3 "* ]]; }

check_macs() {
    check "the client reaches $VIP4 at $WAN4" until_true 60 reaches client "$VIP4" "$WAN4"
    check "the client reaches $VIP6 at $WAN6" until_true 60 reaches client "$VIP6" "$WAN6"
    check "rs1 reaches its gateway 192.0.2.1 at $LAN4" until_true 60 reaches rs1 192.0.2.1 "$LAN4"
    check "rs1 reaches its gateway 2001:db8:2::1 at $LAN6" until_true 60 reaches rs1 2001:db8:2::1 "$LAN6"
}

# serves: pages of both families come, from rs1 too, which has to find its gateway then.
serves() {
    check "pages come" until_true 60 answers "$(url "$VIP4")/" rs1
    check "over IPv6 too" until_true 60 answers "$(url "$VIP6")/" rs1
}

comes_up() {
    at director2
    check "director2 is backup" until_true 60 is_no_master
    at director1
    check "director1 is master" until_true 60 is_master
    check "has both servers" until_true 60 has_both_servers
    director_types ip -br link
    director_types ip -br address
    serves
    check_macs
    check_sync director1 director2
}

# Switches learn from adverts where a virtual MAC address is; with vmac_xmit_base they have the twin's own.
who_says_it() {
    local twin
    twin=$(on_director cat /sys/class/net/wan/address)
    capture switch director1-wan0 adverts -Q in "ip proto 112 or ip6 proto 112"
    check "use_vmac: adverts come from $WAN4" until_true 60 at_least_frames 2 adverts ip and ether src "$WAN4"
    check "vmac_xmit_base: from the twin" until_true 60 at_least_frames 2 adverts ip6 and ether src "$twin"
    equal "no other has any" 0 "$(frames adverts not ether src "$WAN4" and not ether src "$twin")"
    stop_capture
}

both_families_are_balanced() {
    local family
    for family in 4 6; do
        use_family "$family"
        check "the client pings $VIP" pings client "$VIP"
        check_alternates "$(url "$VIP")"
        check_ab 500 10 "$(url "$VIP")"
        check_download "$(url "$VIP")"
    done
    use_family 4 >/dev/null
    ipvsadm -Ln --stats
}

# The MAC address moves with the VIP: nobody asks again, and connections go on.
moves() {
    run_downloads
    kill_keepalived
    end_lvsd KILL
    at director2
    check "lvsd and keepalived of the master killed: director2 is master" until_true 60 is_master
    serves
    check_macs
    check_ab 500 10 "$(url "$VIP6")"
    check_downloads
}

# The old master comes back; the backup says goodbye to the addresses and their MACs.
moves_back() {
    at director1
    run_lvsd
    own_addresses 1
    start_keepalived
    check "director1 is master again" until_true 60 is_master
    at director2
    check "director2 has given the VIP up" until_true 60 is_no_master
    serves
    check_macs
    at director1
    stop_keepalived
    equal "keepalived stopped: its macvlans are gone" "" "$(on_director ip -o link show type macvlan)"
    at director2
    check "director2 is master" until_true 60 is_master
    serves
    check_macs
}
