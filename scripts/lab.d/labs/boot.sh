# shellcheck shell=bash
# The daemon ends and starts again, asked to and not: its rules and its connections are back before the first packet.

run_lab() {
    local family
    nat_network 2
    start_nginx rs1 && start_nginx rs2
    make_twins
    start_lvsd
    nat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        ipvsadm -A -t "$(vip 80)" -s wrr -p 60
        ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -m -w 3 -x 1000 -y 500
        ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -m
        check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    done
    ipvsadm --set 800 100 200
    restart KILL
    restart TERM
}

# everything: the rules, the timeouts and the thresholds as the tools show them.
everything() {
    ipvsadm_quiet -Sn
    ipvsadm_quiet -L --timeout
    ipvsadm_quiet -Ln --thresholds | awk '{ print $1, $2, $3, $4 }'
}

# restart SIGNAL: with a client that tries all the time.
restart() {
    local before knocker seen
    title "lvsd ends by $1 and starts again"
    before=$(everything)
    start_downloads 4 "$(url "$VIP")"
    check "downloads run" until_true 60 at_least_active 4
    knock "$LAB_STATE/knocks" &
    knocker=$!
    remember "$knocker" knock
    until_true 60 test -s "$LAB_STATE/knocks"
    end_lvsd "$1"
    run_lvsd
    check "rules, timeouts and thresholds are as before" test "$before" == "$(everything)"
    check "pages come again" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    kill "$knocker"
    wait "$knocker" 2>/dev/null || true
    seen=$(sort "$LAB_STATE/knocks" | uniq -c | awk '{ print $2 ": " $1 }' | paste -sd, | sed 's/,/, /g')
    # 7: refused, which is what a director without its rules would say.
    equal "no client was refused, none got an error ($seen)" 0 "$(grep -cvE '^(rs[12]|28)$' "$LAB_STATE/knocks" || true)"
    rm "$LAB_STATE/knocks"
    check_downloads
}

# knock FILE: a connection after the other; which server answered, or curl's exit code.
knock() {
    trap 'exit 0' TERM
    while :; do
        in_ns client curl -s --max-time 0.3 "$(url "$VIP")/" >"$1.page" && cat "$1.page" || echo $?
    done >"$1"
}
