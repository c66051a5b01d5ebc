# shellcheck shell=bash
# Pairs of directors: which one has the VIP, which one syncs its connections out, and how long a takeover lasted.

# start_pair CONFIGURE: the network of a pair, its real servers and both directors. CONFIGURE PRIORITY writes keepalived's
# configuration of the director that is typed on.
start_pair() {
    local n
    pair_network
    # What the client knows of the VIP's MAC does not age: only a gratuitous ARP changes it.
    set_sysctl client net.ipv4.neigh.eth0.base_reachable_time_ms=3600000
    start_nginx rs1 && start_nginx rs2
    use_family 4
    for n in 1 2; do
        at "director$n"
        start_lvsd
        own_addresses "$n"
        "$1" $((n == 1 ? 150 : 100))
        start_keepalived
    done
}

# own_addresses N: the addresses of director N that are not VRRP's.
own_addresses() {
    twin_has wan "198.51.100.1$1/24" "2001:db8:1::1$1/64"
    twin_has lan "192.0.2.${1}0/24" "2001:db8:2::${1}0/64"
}

# is_master: whether the director that is typed on has the VIP.
is_master() { [[ -n $(on_director ip -o addr show to "$VIP4") ]]; }
is_no_master() { ! is_master; }
has_both_servers() { servers_are "$(rs 1 80)=1 $(rs 2 80)=1" -t "$(vip 80)"; }

# check_sync MASTER BACKUP: the master syncs its connections to the backup; keepalived makes the daemons follow the VIP.
check_sync() {
    at "$2"
    check "$2 listens: $(daemons)" until_true 60 runs_daemon backup
    at "$1"
    check "$1 syncs out: $(daemons)" until_true 60 runs_daemon master
    ipvsadm -L --daemon
}

daemons() { ipvsadm_quiet -L --daemon | xargs; }
runs_daemon() { [[ $(daemons) == "$1 sync daemon (mcast=lan, syncid=7"* ]]; }

# Whether the client's neighbour entry of the VIP is that of the director that is typed on.
is_reached() { in_ns client ip neigh show "$VIP4" | grep -q "$(on_director cat /sys/class/net/wan/address)"; }

# check_takeover SENTENCE DIRECTOR: DIRECTOR becomes master and informs the client, and new connections work. VRRP waits for
# three advertisements and a skew (RFC 5798 6.1), here 3.6 seconds. A busy machine takes longer, so the time is printed and
# not judged. Afterwards DIRECTOR is typed on.
check_takeover() {
    local begun
    begun=$(now_ms)
    at "$2"
    check "$1: $2 is master" until_true 60 is_master
    check "$1: the client was informed by gratuitous ARP" until_true 60 is_reached
    check "$1: new connections work again" until_true 60 tries_a_page
    echo "note  $1: the takeover took $((($(now_ms) - begun) / 100 * 100)) ms"
}

tries_a_page() { [[ $(in_ns client curl -s --max-time 5 "$(url "$VIP")/" || true) == rs[12] ]]; }

has_connections() { (($(rows_of "$(vip 80)" | grep -c ESTABLISHED || true) >= $1)); }

# run_downloads: four that run by director1, and that director2 knows.
run_downloads() {
    start_downloads 4 "$(url "$VIP")"
    check "downloads run" until_true 60 at_least_active 4
    at director2
    check "director2 knows them" until_true 60 has_connections 4
    at director1
}

# kill_master: director1, which has no time to say goodbye. Afterwards director2 is typed on.
kill_master() {
    kill_keepalived
    end_lvsd KILL
    check_takeover "lvsd and keepalived of the master killed" director2
}
