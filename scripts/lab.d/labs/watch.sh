# shellcheck shell=bash
# What an operator watches: every listing of ipvsadm, byte for byte as with a kernel, while traffic runs.

run_lab() {
    local family
    nat_network 2
    start_nginx rs1 && start_nginx rs2
    start_lvsd
    nat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        [[ $family == 4 ]] || { MARKED=" IPv6" && SIX=(-6); }
        fill_table
        check_listings
        check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
        check_rates
        check_big_numbers
        check_connections
        check_thresholds
        ipvsadm -C
    done
    check_settings
    lvsctl workers
    lvsctl devices
    lvsctl drops
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

rates_of() { ipvsadm_quiet -Ln -t "$(vip 80)" --rate --exact | awk '$1 == "TCP" { print $3 }'; }

check_rates() {
    ip netns exec "$(ns client)" ab -q -s 30 -t 120 -n 1000000 -c 4 "$(url "$VIP")/" >"$LAB_STATE/ab.log" 2>&1 &
    local load=$!
    remember "$load" ab
    check "rates rise while ab runs" until_true 60 rate_is_positive
    listing_begins --rate \
        'Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS' '  -> RemoteAddress:Port'
    ipvsadm -Ln --rate
    kill "$load"
    wait "$load" || true
}

rate_is_positive() { (($(rates_of) > 0)); }

# listing_begins OPTION LINE LINE
listing_begins() { equal "the head of $1" "$2"$'\n'"$3" "$(ipvsadm_quiet -Ln "$1" -t "$(vip 80)" | sed -n 1,2p)"; }

# From 100,000,000 on the tool shortens, unless told not to.
check_big_numbers() {
    local exact short
    ipvsadm -Z
    until (($(sum_of_column "$(vip 80)" 5) >= 100000000)); do
        in_ns client curl -s --max-time 60 -o /dev/null "$(url "$VIP")/files/big"
    done
    check "the counters come to rest" until_true 60 counters_rest
    listing_begins --stats \
        'Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes' '  -> RemoteAddress:Port'
    ipvsadm -Ln --stats
    exact=$(ipvsadm_quiet -Ln -t "$(vip 80)" --stats --exact | awk '$1 == "TCP" { print $7 }')
    short=$(ipvsadm_quiet -Ln -t "$(vip 80)" --stats | awk '$1 == "TCP" { print $7 }')
    equal "--exact says all digits of it ($exact)" "$(shortened "$exact")" "$short"
}

# print_largenum of ipvsadm.
shortened() { if (($1 < 1000000000)); then echo "$(($1 / 1000))K"; else echo "$(($1 / 1000000))M"; fi; }

# The estimator shows new numbers every two seconds.
counters_rest() {
    local before
    before=$(sum_of_column "$(vip 80)" 2)
    sleep 2.2
    [[ $(sum_of_column "$(vip 80)" 2) == "$before" ]]
}

check_connections() {
    local expected client=$CLIENT4
    [[ $VIP == *:* ]] && client="\\[$CLIENT6\\]"
    ip netns exec "$(ns client)" curl -s --limit-rate 20k -o /dev/null "$(url "$VIP")/files/part" &
    local download=$!
    remember "$download" download
    check "an open connection counts as active" until_true 60 active_is 1
    ipvsadm -Lnc | sed -n 1,5p
    equal "the head of -Lnc" 'IPVS connection entries
pro expire state       source             virtual            destination' "$(ipvsadm_quiet -Lnc | sed -n 1,2p)"
    expected="^TCP 1[45]:[0-9]{2}  ESTABLISHED $client:[0-9]+ +$(quoted "$(vip 80)") +"
    expected+="($(quoted "$(rs 1 80)")|$(quoted "$(rs 2 80)"))$"
    equal "its row, 15 minutes from its end" 1 "$(ipvsadm_quiet -Lnc | grep -cE "$expected")"
    lvsctl connections --service "$(tcp 80)" --state ESTABLISHED
    kill "$download"
    wait "$download" || true
    check "a closed one is active no more" until_true 60 active_is 0
}

# quoted TEXT: for a regular expression.
quoted() {
    local text=${1//./\\.}
    text=${text//\[/\\[}
    echo "${text//\]/\\]}"
}

# active_is COUNT: ActiveConn of both servers together.
active_is() { (($(active_conns "$(vip 80)") == $1)); }

# A server at its upper threshold gets nothing until it is below the lower one.
check_thresholds() {
    ipvsadm -e -t "$(vip 80)" -r "$(rs 2 80)" -m -x 1 -y 1
    check "a server above its threshold gets nothing" only "$(url "$VIP")/" rs1
    ipvsadm -Ln --thresholds -t "$(vip 80)"
    ipvsadm -e -t "$(vip 80)" -r "$(rs 2 80)" -m
    check "without threshold it takes part again" until_true 60 answers "$(url "$VIP")/" rs2
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
