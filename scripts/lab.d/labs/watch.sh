# shellcheck shell=bash
# What an operator watches while traffic runs: rates, counters, connections, thresholds.

run_lab() {
    local family
    nat_network 2
    start_nginx rs1 && start_nginx rs2
    start_lvsd
    nat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        ipvsadm -A -t "$(vip 80)" -s rr
        ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -m
        ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -m
        check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
        check_rates
        check_big_numbers
        check_connections
        check_thresholds
        ipvsadm -C
    done
    lvsctl workers
    lvsctl devices
    lvsctl drops
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

# The tool shortens numbers from 100,000,000 on, unless --exact is given.
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
