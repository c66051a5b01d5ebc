# shellcheck shell=bash
# Two directors: keepalived's VRRP over their twin interfaces moves the VIP when the master dies.

# Three advertisements and the skew of the backup's priority (RFC 5798 6.1), in milliseconds.
MASTER_DOWN_MS=$((3000 + (256 - 100) * 1000 / 256))
# A client that tries again meanwhile, and a machine shared with everything else here. A client that nobody tells of the
# new master would ask for its MAC after half a minute (base_reachable_time) and more.
PATIENCE_MS=10000

run_lab() {
    local n
    pair_network
    start_nginx rs1 && start_nginx rs2
    use_family 4
    for n in 1 2; do
        at "director$n"
        start_lvsd
        own_addresses "$n"
        write_keepalived $((n == 1 ? 150 : 100))
        start_keepalived
    done
    both_come_up
    both_die
    comes_back
    only_lvsd_dies
}

# own_addresses N: what director N has beside VRRP's.
own_addresses() {
    twin_has wan "198.51.100.1$1/24" "2001:db8:1::1$1/64"
    twin_has lan "192.0.2.${1}0/24" "2001:db8:2::${1}0/64"
}

# write_keepalived PRIORITY
write_keepalived() {
    cat >"$(director_file keepalived.conf)" <<CONF
global_defs {
    router_id $AT
    lvs_sync_daemon lan OUTSIDE4 id 7
}

vrrp_sync_group LAB {
    group {
        OUTSIDE4
        INSIDE4
        OUTSIDE6
        INSIDE6
    }
}

$(vrrp_instance OUTSIDE4 wan 51 "$1" "$VIP4/32")
$(vrrp_instance INSIDE4 lan 52 "$1" 192.0.2.1/24)
$(vrrp_instance OUTSIDE6 wan 51 "$1" fe80::5:1/64 "$VIP6/128")
$(vrrp_instance INSIDE6 lan 52 "$1" fe80::5:2/64 2001:db8:2::1/64)

virtual_server $VIP4 80 {
    delay_loop 1
    lvs_sched rr
    lvs_method NAT
    protocol TCP
$(tcp_server "${RS4[0]}")
$(tcp_server "${RS4[1]}")
}

virtual_server $VIP6 80 {
    delay_loop 1
    lvs_sched rr
    lvs_method NAT
    protocol TCP
$(tcp_server "${RS6[0]}")
$(tcp_server "${RS6[1]}")
}
CONF
}

# vrrp_instance NAME DEVICE ID PRIORITY ADDRESS...
vrrp_instance() {
    cat <<CONF
vrrp_instance $1 {
    state BACKUP
    interface $2
    virtual_router_id $3
    priority $4
    advert_int 1
    virtual_ipaddress {
$(printf '        %s\n' "${@:5}")
    }
}
CONF
}

# tcp_server ADDRESS
tcp_server() {
    cat <<CONF
    real_server $1 80 {
        weight 1
        TCP_CHECK {
            connect_timeout 5
        }
    }
CONF
}

# is_master: whether the director that is typed on has the VIP.
is_master() { [[ -n $(on_director ip -o addr show dev wan to "$VIP4" 2>/dev/null) ]]; }
is_no_master() { ! is_master; }
has_both_servers() { servers_are "$(rs 1 80)=1 $(rs 2 80)=1" -t "$(vip 80)"; }

both_come_up() {
    local n
    for n in 1 2; do
        at "director$n"
        check "director$n has both servers, checked through its twin" until_true 60 has_both_servers
    done
    at director2
    check "director2 is backup" until_true 60 is_no_master
    at director1
    check "director1 is master" until_true 60 is_master
    director_types ip -br addr
    ipvsadm -Ln
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "over IPv6 too" until_true 60 answers "$(url "$VIP6")/" rs1 rs2
    check "the client reaches the master's MAC" is_reached
    check_sync director1 director2
}

# check_sync MASTER BACKUP: the master tells the backup of its connections; keepalived has the daemons follow the VIP.
check_sync() {
    at "$2"
    check "$2 listens: $(daemons)" until_true 60 runs_daemon backup
    at "$1"
    check "$1 tells: $(daemons)" until_true 60 runs_daemon master
    ipvsadm -L --daemon
}

daemons() { ipvsadm_quiet -L --daemon | xargs; }
runs_daemon() { [[ $(daemons) == "$1 sync daemon (mcast=lan, syncid=7"* ]]; }

# Whether the client's neighbour entry of the VIP is that of the director that is typed on.
is_reached() { in_ns client ip neigh show "$VIP4" | grep -q "$(on_director cat /sys/class/net/wan/address)"; }

# check_takeover SENTENCE: new connections within the time that VRRP takes to notice.
check_takeover() {
    local begun taken
    begun=$(now_ms)
    until_true 60 tries_a_page || true
    taken=$(($(now_ms) - begun))
    within "$1: new connections work again, milliseconds" 0 $((MASTER_DOWN_MS + PATIENCE_MS)) "$taken"
}

tries_a_page() { [[ $(in_ns client curl -s --max-time 0.5 "$(url "$VIP")/" || true) == rs[12] ]]; }

has_connections() { (($(rows_of "$(vip 80)" | grep -c ESTABLISHED || true) >= $1)); }

both_die() {
    start_downloads 4 "$(url "$VIP")"
    check "downloads run" until_true 60 at_least_active 4
    at director2
    check "director2 knows them" until_true 60 has_connections 4
    at director1
    kill_keepalived
    end_lvsd KILL
    check_takeover "lvsd and keepalived of the master killed"
    at director2
    check "director2 is master" is_master
    check "IPv6 works again too" until_true 60 answers "$(url "$VIP6")/" rs1 rs2
    check "the client was told by gratuitous ARP" is_reached
    check_ab 500 10 "$(url "$VIP")"
    check_downloads
    ipvsadm -Ln --stats
}

# The old master returns; the higher priority takes the VIP back without a gap.
comes_back() {
    at director1
    run_lvsd
    own_addresses 1
    start_keepalived
    check "director1 is master again" until_true 60 is_master
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "by director1" until_true 60 is_reached
    at director2
    check "director2 has given the VIP up" until_true 60 is_no_master
}

# Without lvsd the twin is gone, and keepalived with it from the network.
only_lvsd_dies() {
    at director1
    end_lvsd KILL
    check_takeover "lvsd alone of the master killed"
    at director2
    check "director2 is master" is_master
    check_ab 500 10 "$(url "$VIP")"
}
