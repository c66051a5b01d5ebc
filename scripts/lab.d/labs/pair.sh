# shellcheck shell=bash
# The pair of docs/deploy.md: its keepalived.conf, as an operator copies it, on both directors.

# shellcheck source=scripts/lab.d/takeover.sh
source "$LAB_HOME/scripts/lab.d/takeover.sh"

run_lab() {
    start_pair copy_from_deploy
    comes_up_as_deploy_says
    master_dies
}

# deploy_keepalived PRIORITY: the block of docs/deploy.md that begins with keepalived's global_defs; 'priority' is what an
# operator changes.
deploy_keepalived() {
    awk '/^```/ { fenced = !fenced; if (found) exit; next }
        fenced && /^global_defs/ { found = 1 }
        found { print }' "$LAB_HOME/docs/deploy.md" | sed "s/priority 150/priority $1/"
}

# copy_from_deploy PRIORITY
copy_from_deploy() {
    deploy_keepalived "$1" >"$(director_file keepalived.conf)"
    check "docs/deploy.md's file is there, for 192.0.2.11 and 192.0.2.12" \
        grep -qx "    real_server ${RS4[0]} 80 {" "$(director_file keepalived.conf)"
    typed "$AT" "grep priority $(director_file keepalived.conf)"
    grep priority "$(director_file keepalived.conf)"
    check "keepalived takes docs/deploy.md's file" director_types keepalived --config-test \
        --use-file "$(director_file keepalived.conf)"
}

comes_up_as_deploy_says() {
    local director
    for director in director1 director2; do
        at "$director"
        check "$director has both servers" until_true 60 has_both_servers
    done
    at director1
    check "$AT is master" until_true 60 is_master
    director_types ip -br address
    ipvsadm -Ln
    check_sync director1 director2
    director_types lvsctl why 203.0.113.7 tcp:198.51.100.80:80
    at director2
    check "$AT is backup" is_no_master
    at director1
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "the client reaches the master's MAC" is_reached
    equal "both directors list the same" "$(rules)" "$(at director2 && rules)"
}

rules() { ipvsadm_quiet -Sn | sort; }

master_dies() {
    local before
    run_downloads
    before=$(at director2 && rules)
    kill_master
    equal "its list is what it was" "$before" "$(rules)"
    check "it syncs out now: $(daemons)" until_true 60 runs_daemon master
    check_ab 500 10 "$(url "$VIP")"
    check_downloads
    ipvsadm -Ln --stats
}
