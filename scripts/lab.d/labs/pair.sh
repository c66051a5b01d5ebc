# shellcheck shell=bash
# The pair of README's deployment chapter: its keepalived.conf, as an operator copies it, on both directors.

# The pair's network, VRRP's questions and the takeover's clock.
# shellcheck source=scripts/lab.d/labs/vrrp.sh
source "$LAB_HOME/scripts/lab.d/labs/vrrp.sh"

# Which directors they are; the first is to be master.
PAIR=(director1 director2)

run_lab() {
    local n
    pair_network
    start_nginx rs1 && start_nginx rs2
    use_family 4
    for n in 1 2; do
        at "director$n"
        start_lvsd
        own_addresses "$n"
        copy_from_readme $((n == 1 ? 150 : 100))
        check "keepalived takes README's file" director_types keepalived --config-test \
            --use-file "$(director_file keepalived.conf)"
        start_keepalived
    done
    comes_up_as_readme_says
    master_dies
}

# readme_keepalived PRIORITY: the block of README that begins with keepalived's global_defs; 'priority' is what an
# operator changes.
readme_keepalived() {
    awk '/^```/ { fenced = !fenced; if (found) exit; next }
        fenced && /^global_defs/ { found = 1 }
        found { print }' "$LAB_HOME/README.md" | sed "s/priority 150/priority $1/"
}

# copy_from_readme PRIORITY
copy_from_readme() {
    readme_keepalived "$1" >"$(director_file keepalived.conf)"
    check "README's file is there, for 192.0.2.11 and 192.0.2.12" \
        grep -qx "    real_server ${RS4[0]} 80 {" "$(director_file keepalived.conf)"
    typed "$AT" "grep priority $(director_file keepalived.conf)"
    grep priority "$(director_file keepalived.conf)"
}

comes_up_as_readme_says() {
    local director
    for director in "${PAIR[@]}"; do
        at "$director"
        check "$director has both servers" until_true 60 has_both_servers
    done
    at "${PAIR[0]}"
    check "$AT is master" until_true 60 is_master
    director_types ip -br address
    ipvsadm -Ln
    check_sync "${PAIR[@]}"
    director_types lvsctl why 203.0.113.7 tcp:198.51.100.80:80
    at "${PAIR[1]}"
    check "$AT is backup" is_no_master
    at "${PAIR[0]}"
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "the client reaches the master's MAC" is_reached
    equal "both directors list the same" "$(rules)" "$(at "${PAIR[1]}" && rules)"
}

rules() { ipvsadm_quiet -Sn | sort; }

master_dies() {
    local before
    start_downloads 4 "$(url "$VIP")"
    check "downloads run" until_true 60 at_least_active 4
    at director2
    before=$(rules)
    check "director2 knows them" until_true 60 has_connections 4
    at director1
    kill_keepalived
    end_lvsd KILL
    check_takeover "lvsd and keepalived of the master killed"
    at director2
    check "director2 is master" is_master
    equal "its list is what it was" "$before" "$(rules)"
    check "it tells now: $(daemons)" until_true 60 runs_daemon master
    check_ab 500 10 "$(url "$VIP")"
    check_downloads
    ipvsadm -Ln --stats
}
