# shellcheck shell=bash
# Changes while fifty downloads run: none of them may notice.

run_lab() {
    local family
    nat_network 3
    start_nginx rs1 && start_nginx rs2 && start_nginx rs3
    start_lvsd
    nat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        lvsctl service add "$(tcp 80)" -s wrr
        lvsctl server add "$(tcp 80)" "$(rs 1 80)" -m -w 1
        lvsctl server add "$(tcp 80)" "$(rs 2 80)" -m -w 1
        check "the first page comes" until_true 10 answers "$(url "$VIP")/" rs1 rs2
        change_under_load
        save_and_restore
    done
}

change_under_load() {
    local rate=1M
    [[ $QUICK == true ]] && rate=400k
    typed client "50 times: curl --limit-rate $rate $(url "$VIP")/files/part"
    start_downloads 50 "$(url "$VIP")" "$rate"
    check "all fifty are under way" until_true 20 fifty_active
    lvsctl server edit "$(tcp 80)" "$(rs 1 80)" -w 2
    lvsctl server edit "$(tcp 80)" "$(rs 2 80)" -w 0
    check "a drained server gets no new connection" only "$(url "$VIP")/" rs1
    lvsctl list "$(tcp 80)"
    lvsctl server add "$(tcp 80)" "$(rs 3 80)" -m -w 5
    check "an added server gets connections" until_true 5 answers "$(url "$VIP")/" rs3
    lvsctl server delete "$(tcp 80)" "$(rs 3 80)"
    check "a deleted server gets none" only "$(url "$VIP")/" rs1
    lvsctl server edit "$(tcp 80)" "$(rs 2 80)" -i
    lvsctl server edit "$(tcp 80)" "$(rs 2 80)" -m -w 3
    lvsctl service edit "$(tcp 80)" -s wlc
    lvsctl service add "$(tcp 8080)" -s rr
    lvsctl service delete "$(tcp 8080)"
    within "downloads that all this happened to" 40 50 "$(still_downloading)"
    check_downloads
    check "both servers are in use again" both_answer
    lvsctl list "$(tcp 80)" --stats
}

fifty_active() { (($(active_conns "$(tcp 80)") >= 50)); }

# only URL SERVER: ten connections reach this server alone.
only() { [[ $(pages 10 "$1" | tr ' ' '\n' | sort -u) == "$2" ]]; }

both_answer() { until_true 10 answers "$(url "$VIP")/" rs1 && until_true 10 answers "$(url "$VIP")/" rs2; }

save_and_restore() {
    echo "\$ lvsctl state get > $LAB_STATE/saved.json"
    lvsctl_quiet state get >"$LAB_STATE/saved.json"
    lvsctl flush
    equal "a flushed director balances nothing" "" "$(page "$(url "$VIP")/")"
    lvsctl state apply "$LAB_STATE/saved.json"
    check "restored, it serves again" until_true 5 answers "$(url "$VIP")/" rs1 rs2
    lvsctl_quiet state get >"$LAB_STATE/restored.json"
    check "saved and restored rules are identical" cmp "$LAB_STATE/saved.json" "$LAB_STATE/restored.json"
    lvsctl flush
}
