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
        ipvsadm -A -t "$(vip 80)" -s wrr
        ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -m -w 1
        ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -m -w 1
        check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
        change_under_load
        save_and_restore
    done
}

change_under_load() {
    typed client "50 times: curl $(url "$VIP")/files/part"
    start_downloads 50 "$(url "$VIP")"
    check "all fifty are under way" until_true 60 fifty_active
    ipvsadm -e -t "$(vip 80)" -r "$(rs 1 80)" -m -w 2
    ipvsadm -e -t "$(vip 80)" -r "$(rs 2 80)" -m -w 0
    check "a drained server gets no new connection" only "$(url "$VIP")/" rs1
    ipvsadm -Ln -t "$(vip 80)"
    ipvsadm -a -t "$(vip 80)" -r "$(rs 3 80)" -m -w 5
    check "an added server gets connections" until_true 60 answers "$(url "$VIP")/" rs3
    ipvsadm -d -t "$(vip 80)" -r "$(rs 3 80)"
    check "a deleted server gets none" only "$(url "$VIP")/" rs1
    ipvsadm -e -t "$(vip 80)" -r "$(rs 2 80)" -i
    ipvsadm -e -t "$(vip 80)" -r "$(rs 2 80)" -m -w 3
    ipvsadm -E -t "$(vip 80)" -s wlc
    ipvsadm -A -t "$(vip 8080)" -s rr
    ipvsadm -D -t "$(vip 8080)"
    deleted_and_added_again
    equal "all this happened to fifty downloads" 50 "$(still_downloading)"
    check_downloads
    check "both servers are in use again" both_answer
    ipvsadm -Ln -t "$(vip 80)" --stats
}

# A server that is added again takes its connections back.
deleted_and_added_again() {
    local before
    before=$(active_conns "$(vip 80)")
    ipvsadm -d -t "$(vip 80)" -r "$(rs 2 80)"
    ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -m -w 3
    check "a server added again has its connections ($before in all)" until_true 60 at_least_active "$((before * 9 / 10))"
}

fifty_active() { (($(active_conns "$(vip 80)") >= 50)); }

both_answer() { until_true 60 answers "$(url "$VIP")/" rs1 && until_true 60 answers "$(url "$VIP")/" rs2; }

save_and_restore() {
    local saved
    saved=$(director_file saved)
    director_types sh -c "ipvsadm-save -n > $saved; ipvsadm -C"
    equal "nothing is left" "" "$(ipvsadm_quiet -Sn)"
    equal "a flushed director balances nothing" "" "$(page "$(url "$VIP")/")"
    director_types sh -c "ipvsadm-restore < $saved"
    check "restored, it serves again" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    equal "saved and restored rules are identical" "$(cat "$saved")" "$(ipvsadm_quiet -Sn)"
    cat "$saved"
    ipvsadm -C
}
