# shellcheck shell=bash
# reset_unknown: clients of connections that cannot go on are told so, and the client's kernel believes it.

run_lab() {
    local family
    nat_network 2
    start_nginx rs1 && start_nginx rs2
    start_lvsd
    nat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        ipvsadm -A -t "$(vip 80)" -s rr
        ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -m
        check "the first page comes" until_true 60 answers "$(url "$VIP")/" rs1
        deleted_server
        check_lost_table nat_addresses rs2
    done
}

# A download of a server that is deleted: silence as in the kernel, until the service resets.
deleted_server() {
    local before
    before=$(drops_of real_server_gone)
    rm -f "$LAB_STATE/gone.part"
    start_request gone --limit-rate 100k -o "$LAB_STATE/gone.part" "$(url "$VIP")/files/part"
    check "a download runs" until_true 60 test -s "$LAB_STATE/gone.part"
    ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -m
    ipvsadm -d -t "$(vip 80)" -r "$(rs 1 80)"
    check "its server is deleted: what the client sends is dropped" until_true 60 drops_more_than real_server_gone "$before"
    check "and the client waits" still_runs
    lvsctl service edit "$(tcp 80)" --reset-unknown true
    check_reset "with --reset-unknown true the client" resets_server_gone rs2
}
