# shellcheck shell=bash
# What an operator reads: every listing of ipvsadm, byte for byte as with a kernel.

run_lab() {
    local family
    nat_network 2
    start_lvsd
    nat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        [[ $family == 4 ]] || { MARKED=" IPv6" && SIX=(-6); }
        fill_table
        check_listings
        ipvsadm -C
    done
    check_settings
}

# One service of every kind.
fill_table() {
    ipvsadm -A -t "$(vip 80)" -s rr
    ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -m -w 3 -x 100 -y 50
    ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -m
    ipvsadm -A -u "$(vip 53)" -s sh -b sh-fallback,sh-port -o
    ipvsadm -a -u "$(vip 53)" -r "$(rs 1 53)" -g -w 65535
    ipvsadm -A -f 66 "${SIX[@]}" -s wlc -p
    ipvsadm -a -f 66 "${SIX[@]}" -r "$(rs 1 0)" -i
    ipvsadm -a -f 66 "${SIX[@]}" -r "$(rs 2 0)" -i --tun-type gue --tun-port 6080 --tun-csum
}

# What follows "->" in each listing, as ipvsadm formats it.
row() { printf '  -> %-28s %-7s %-6d %-10u %-10u\n' "$@"; }
threshold_row() { printf '  -> %-28s %-10u %-10u %-10u %-10u\n' "$@"; }
persistent_row() { printf '  -> %-28s %-9u %-11u %-10u %-10u\n' "$@"; }
tunnel_row() { printf '  -> %-28s %-7s %-13s %-6d %-10u %-10u\n' "$@"; }

# What a fwmark service of IPv6 says besides.
MARKED="" SIX=()

# listing_is SENTENCE OPTION... with the expected text on standard input.
listing_is() {
    local sentence=$1 expected seen
    shift
    expected=$(cat)
    seen=$(ipvsadm_quiet "$@")
    if [[ $seen == "$expected" ]]; then
        pass "$sentence: ipvsadm $*"
    else
        fail "$sentence: ipvsadm $*"
        diff <(echo "$expected") <(echo "$seen") | cat -A || true
    fi
}

VERSION='IP Virtual Server version 1.2.1 (size=4096)'

check_listings() {
    local web dns
    web=$(vip 80) dns=$(vip 53)
    listing_is "the listing" -Ln <<LISTING
$VERSION
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  $web rr
$(row "$(rs 1 80)" Masq 1 0 0)
$(row "$(rs 2 80)" Masq 3 0 0)
UDP  $dns sh (sh-fallback,sh-port) ops
$(row "$(rs 1 53)" Route 65535 0 0)
FWM  66$MARKED wlc persistent 360
$(row "$(rs 1 0)" Tunnel 1 0 0)
$(row "$(rs 2 0)" Tunnel 1 0 0)
LISTING
    # In the order of addition, newest first.
    listing_is "the scheduler's order" -Ln -t "$web" --nosort <<LISTING
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  $web rr
$(row "$(rs 1 80)" Masq 1 0 0)
$(row "$(rs 2 80)" Masq 3 0 0)
LISTING
    listing_is "thresholds" -Ln --thresholds -t "$web" --sort <<LISTING
Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn 
  -> RemoteAddress:Port
TCP  $web rr
$(threshold_row "$(rs 1 80)" 0 0 0 0)
$(threshold_row "$(rs 2 80)" 100 50 0 0)
LISTING
    listing_is "templates" -Ln --persistent-conn -f 66 "${SIX[@]}" <<LISTING
Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn 
  -> RemoteAddress:Port
FWM  66$MARKED wlc persistent 360
$(persistent_row "$(rs 1 0)" 1 0 0 0)
$(persistent_row "$(rs 2 0)" 1 0 0 0)
LISTING
    listing_is "tunnels" -Ln --tun-info -f 66 "${SIX[@]}" <<LISTING
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn
FWM  66$MARKED wlc persistent 360
$(tunnel_row "$(rs 1 0)" Tunnel ipip 1 0 0)
$(tunnel_row "$(rs 2 0)" Tunnel gue:6080:+c 1 0 0)
LISTING
    ipvsadm -Ln
}

check_settings() {
    listing_is "timeouts" -L --timeout <<<'Timeout (tcp tcpfin udp): 900 120 300'
    ipvsadm --set 700 0 77
    listing_is "timeouts, one of them as before" -L --timeout <<<'Timeout (tcp tcpfin udp): 700 120 77'
    equal "no sync daemon runs" "" "$(ipvsadm_quiet -L --daemon)"
    ipvsadm --start-daemon master --mcast-interface lan --syncid 5
    listing_is "a sync daemon with the kernel's defaults" -L --daemon \
        <<<'master sync daemon (mcast=lan, syncid=5, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)'
    ipvsadm --stop-daemon master
    equal "it is stopped" "" "$(ipvsadm_quiet -L --daemon)"
    director_types lvs-run cat /proc/net/ip_vs_stats
    equal "an empty table" "$VERSION"$'\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn' \
        "$(ipvsadm_quiet -Ln)"
}
