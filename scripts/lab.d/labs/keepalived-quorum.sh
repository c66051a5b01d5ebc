# shellcheck shell=bash
# keepalived's quorum: hysteresis, alpha and omega, the sorry server and the one that is inhibited, and what is notified.

# shellcheck source=scripts/lab.d/keepalived_blocks.sh
source "$LAB_HOME/scripts/lab.d/keepalived_blocks.sh"

# Servers of weight 1 and 2: both are needed to gain the quorum of 2 +- 1, and it is lost with the last of them.
run_lab() {
    start_nat_of_three
    touch "$LAB_STATE/rs1-page" "$LAB_STATE/rs2-page"
    write_note
    write_quorum 2
    start_keepalived
    starts_without_servers
    gains_the_quorum
    loses_the_quorum
    reloads_without_quorum
    stops
}

# write_quorum WEIGHT: of rs2.
write_quorum() {
    begin_conf
    conf service 80 alpha omega "hysteresis 1" -- "$1"
    conf service 443 "sorry_server_inhibit" "inhibit_on_failure" -- "$1"
}

# service PORT LINE... -- WEIGHT
service() {
    local port=$1 lines=()
    shift
    while [[ $1 != -- ]]; do
        lines+=("$1")
        shift
    done
    block "virtual_server $VIP $port" "delay_loop 1" "lvs_sched wrr" "lvs_method NAT" "protocol TCP" "retry 1" \
        "delay_before_retry 1" "quorum 2" "quorum_up $(note "$port quorum up")" "quorum_down $(note "$port quorum down")" \
        "sorry_server ${RS[3]} $port" "${lines[@]}" \
        "$(server 1 "$port" 1)" "$(server 2 "$port" "$2")"
}

# server N PORT WEIGHT
server() {
    local kind=HTTP_GET
    [[ $2 == 443 ]] && kind=SSL_GET
    block "real_server ${RS[$1]} $2" "weight $3" "notify_up $(note "$2 rs$1 up")" "notify_down $(note "$2 rs$1 down")" \
        "$(block "$kind" "$(block url "path /" "regex rs$1")" "connect_timeout 10")"
}

heal() { rm "$LAB_STATE/rs$1-page"; }
break_page() { touch "$LAB_STATE/rs$1-page"; }

# alpha: servers are down until their checks say otherwise. That is nobody's news; a quorum that was not there is.
starts_without_servers() {
    becomes 60 "alpha: broken servers never come in, the sorry server does" "$(rs 3 80)=1" -t "$(vip 80)"
    becomes 60 "without alpha they are in until a check fails; sorry_server_inhibit" \
        "$(rs 1 443)=0 $(rs 2 443)=0 $(rs 3 443)=1" -t "$(vip 443)"
    check_notes "alpha: no quorum is told, no failure" "^80" "80 quorum down"
    check_notes "without alpha the failure of rs1 is told" "^443 rs1" "443 rs1 down"
    check_notes "and of rs2" "^443 rs2" "443 rs2 down"
    check_notes "and the loss of the quorum" "^443 quorum down" "443 quorum down"
    check_notes "which keepalived thought it had" "^443 quorum up" "443 quorum up"
    : >"$(director_file notes)"
}

gains_the_quorum() {
    heal 2
    check_notes "rs2 is up" "^80 rs" "80 rs2 up"
    becomes 60 "a server of weight 2 is less than quorum and hysteresis: the sorry server stays" "$(rs 3 80)=1" -t "$(vip 80)"
    check "it says sorry" only "$(url "$VIP")/" rs3
    heal 1
    becomes 60 "3 are quorum and hysteresis: both servers, not the sorry server" "$(rs 1 80)=1 $(rs 2 80)=2" -t "$(vip 80)"
    check_notes "the quorum was gained" "^80 quorum" "80 quorum up"
    becomes 60 "the inhibited sorry server has weight 0" "$(rs 1 443)=1 $(rs 2 443)=2 $(rs 3 443)=0" -t "$(vip 443)"
    check_notes "of that service too" "^443 quorum" "443 quorum up"
    check "pages come from both" until_true 60 answers "$(url "$VIP")/" rs2
    ((WORKERS > 1)) || equal "wrr gives them their share" "3 6" "$(shares 9)"
}

# shares COUNT: how many of these pages come from rs1 and from rs2.
shares() { pages "$1" "$(url "$VIP")/" | tr ' ' '\n' | sort | uniq -c | awk '{ print $1 }' | xargs; }

loses_the_quorum() {
    local service server
    break_page 2
    becomes 60 "1 is less than the quorum but within the hysteresis: rs1 alone" "$(rs 1 80)=1" -t "$(vip 80)"
    check "it serves" only "$(url "$VIP")/" rs1
    becomes 60 "without hysteresis 1 is not enough" "$(rs 1 443)=0 $(rs 2 443)=0 $(rs 3 443)=1" -t "$(vip 443)"
    check_notes "which was told" "^443 quorum" "443 quorum up,443 quorum down"
    equal "of the other nothing was told" "80 quorum up" "$(notes "^80 quorum")"
    break_page 1
    becomes 60 "the last is gone: the sorry server" "$(rs 3 80)=1" -t "$(vip 80)"
    check "it says sorry" only "$(url "$VIP")/" rs3
    check_notes "the quorum was lost" "^80 quorum" "80 quorum up,80 quorum down"
    for service in 80 443; do
        for server in rs1 rs2; do
            check_notes "told of $server" "^$service $server down" "$service $server down"
        done
    done
}

# A reload goes on from where it was: nothing comes in unchecked, and nothing is told twice.
reloads_without_quorum() {
    local before
    before=$(notes .)
    write_quorum 4
    conf checked 8080 TCP "$(block TCP_CHECK "connect_timeout 10")"
    reload_keepalived
    becomes 60 "a reload brings a new service" "$(rs 1 8080)=1 $(rs 2 8080)=1" -t "$(vip 8080)"
    equal "the sorry server is still in" "$(rs 3 80)=1" "$(servers_of -t "$(vip 80)")"
    equal "and nothing was told again" "$before" "$(notes .)"
    heal 2
    becomes 60 "rs2 has the weight of the new file, and the quorum alone" "$(rs 2 80)=4" -t "$(vip 80)"
    heal 1
    becomes 60 "rs1 too" "$(rs 1 80)=1 $(rs 2 80)=4" -t "$(vip 80)"
}

# omega: at its end keepalived tells that servers and quorum are down.
stops() {
    : >"$(director_file notes)"
    stop_keepalived
    check_notes "omega: the end of rs1 is told" "^80 rs1 down" "80 rs1 down"
    check_notes "and of rs2" "^80 rs2 down" "80 rs2 down"
    check_notes "and of the quorum" "^80 quorum down" "80 quorum down"
    equal "without omega it is not" "" "$(notes "^443 .* down")"
    equal "no service is left" "" "$(ipvsadm_quiet -Sn)"
}
