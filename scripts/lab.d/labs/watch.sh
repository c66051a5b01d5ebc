# shellcheck shell=bash
# What an operator watches: the listings, column by column, while traffic runs.

run_lab() {
    local family
    nat_network 2
    start_nginx rs1 && start_nginx rs2
    start_lvsd
    nat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        lvsctl service add "$(tcp 80)" -s rr
        lvsctl server add "$(tcp 80)" "$(rs 1 80)" -m
        lvsctl server add "$(tcp 80)" "$(rs 2 80)" -m -x 100 -y 50
        check "the first page comes" until_true 10 answers "$(url "$VIP")/" rs1 rs2
        check_columns
        check_rates
        check_connections
    done
    lvsctl timeouts
    lvsctl workers
    lvsctl devices
    lvsctl drops
}

# header OPTION...: the two lines above the first service.
header() { lvsctl_quiet list "$@" | sed '/^TCP/,$d'; }

check_columns() {
    check "the listing's columns are ipvsadm's" header_is \
        'Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn'
    check "those of --stats" header_is \
        'Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port' --stats
    check "those of --rate" header_is \
        'Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS
  -> RemoteAddress:Port' --rate
    check "those of --thresholds" header_is \
        'Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn 
  -> RemoteAddress:Port' --thresholds
    lvsctl list --thresholds
}

# header_is TEXT OPTION...: the version line above it may say any table size.
header_is() {
    local expected=$1
    shift
    [[ $(header "$@" | grep -v '^IP Virtual Server version') == "$expected" ]] || {
        header "$@" | cat -A
        return 1
    }
}

check_rates() {
    ip netns exec "$(ns client)" ab -q -s 30 -t 6 -n 1000000 -c 4 "$(url "$VIP")/" >"$LAB_STATE/ab.log" 2>&1 &
    local load=$!
    remember "$load" ab
    check "rates rise while ab runs" until_true 8 rate_is_positive
    lvsctl list --rate
    wait "$load" || true
    lvsctl list --stats
}

rate_is_positive() {
    (($(lvsctl_quiet list "$(tcp 80)" --rate --exact | awk '$1 == "TCP" { print $3 }') > 0))
}

check_connections() {
    local before
    ip netns exec "$(ns client)" curl -s --limit-rate 20k -o /dev/null "$(url "$VIP")/files/part" &
    local download=$!
    remember "$download" download
    check "an open connection counts as active" until_true 5 active_is 1
    lvsctl connections --service "$(tcp 80)" --state ESTABLISHED
    before=$(lvsctl_quiet connections --service "$(tcp 80)" --state ESTABLISHED | grep -c ESTABLISHED || true)
    equal "and is listed as ESTABLISHED" 1 "$before"
    kill "$download"
    wait "$download" || true
    check "a closed one is active no more" until_true 5 active_is 0
}

# active_is COUNT: ActiveConn of both servers together.
active_is() { (($(active_conns "$(tcp 80)") == $1)); }
