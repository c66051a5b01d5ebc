# shellcheck shell=bash
# The distribution's keepalived with an ordinary configuration: checks, a sorry server, a quorum, reload, stop.

# shellcheck source=scripts/lab.d/keepalived_conf.sh
source "$LAB_HOME/scripts/lab.d/keepalived_conf.sh"

run_lab() {
    start_nat_of_three
    write_scripts
    write_keepalived 3
    start_keepalived
    all_come_up
    check_http
    check_tcp_and_misc
    check_reload
    check_outage
    stop_keepalived
    equal "a stopped keepalived leaves no service" "" "$(ipvsadm_quiet -Sn)"
}

all_come_up() {
    becomes 60 "HTTP_GET brings both web servers in" "$(rs 1 80)=3 $(rs 2 80)=1" -t "$(vip 80)"
    becomes 60 "TCP_CHECK brings both TLS servers in" "$(rs 1 443)=1 $(rs 2 443)=1" -t "$(vip 443)"
    becomes 60 "MISC_CHECK brings both name servers in" "$(rs 1 53)=1 $(rs 2 53)=1" -u "$(vip 53)"
    becomes 60 "IPv6 too" "[${RS6[0]}]:80=1" -t "[$VIP6]:80"
    ipvsadm -Ln
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "over IPv6 too" until_true 60 answers "$(url "$VIP6")/" rs1
    equal "a client keeps its TLS server" 1 "$(pages 6 "https://$VIP/" | tr ' ' '\n' | sort -u | wc -l)"
    check "and has a template" template_is_listed
    equal "the quorum was gained" up "$(xargs <"$(director_file quorum.log)")"
}

template_is_listed() { [[ $(rows_of "$(vip 443)") =~ TCP\ 0[01]:[0-9]{2}\ ASSURED\ $CLIENT4:0\  ]]; }

# A dead server refuses at once, so a check takes delay_loop and retry * delay_before_retry; the rest is the machine's.
check_http() {
    stop_nginx rs1
    becomes 60 "nginx killed: out of the table" "$(rs 2 80)=1" -t "$(vip 80)"
    becomes 60 "with inhibit_on_failure: weight 0" "$(rs 1 443)=0 $(rs 2 443)=1" -t "$(vip 443)"
    check "pages come from the other" only "$(url "$VIP")/" rs2
    stop_nginx rs2
    becomes 60 "both killed: the sorry server" "$(rs 3 80)=1" -t "$(vip 80)"
    check "it says sorry" only "$(url "$VIP")/" rs3
    equal "the quorum was lost" "up down" "$(xargs <"$(director_file quorum.log)")"
    start_nginx rs1
    becomes 60 "nginx is back: in the table again, without the sorry server" "$(rs 1 80)=3" -t "$(vip 80)"
    start_nginx rs2
    becomes 60 "both are back" "$(rs 1 80)=3 $(rs 2 80)=1" -t "$(vip 80)"
    check "pages come from both" until_true 60 answers "$(url "$VIP")/" rs2
}

check_tcp_and_misc() {
    becomes 60 "TCP_CHECK: both TLS servers are back" "$(rs 1 443)=1 $(rs 2 443)=1" -t "$(vip 443)"
    rm "$LAB_STATE/dns-rs2"
    becomes 60 "MISC_CHECK fails: out of the table" "$(rs 1 53)=1" -u "$(vip 53)"
    touch "$LAB_STATE/dns-rs2"
    becomes 60 "MISC_CHECK succeeds: in again" "$(rs 1 53)=1 $(rs 2 53)=1" -u "$(vip 53)"
}

# A reload changes what was edited and nothing else; what runs goes on.
check_reload() {
    start_downloads 4 "$(url "$VIP")"
    check "downloads run" until_true 60 at_least_active 4
    write_keepalived 7
    reload_keepalived
    becomes 60 "the new weight, on reload" "$(rs 1 80)=7 $(rs 2 80)=1" -t "$(vip 80)"
    check_downloads
}

# The director restarts under keepalived, which converges by itself.
check_outage() {
    local before
    before=$(ipvsadm_quiet -Sn)
    # Without the addresses its checks fail, and it would take servers out before anybody looks.
    signal_keepalived STOP
    end_lvsd KILL
    run_lvsd
    nat_addresses
    equal "the rules are back before anybody asks" "$before" "$(ipvsadm_quiet -Sn)"
    signal_keepalived CONT
    stop_nginx rs2
    becomes 60 "checks go on after a restart of lvsd" "$(rs 1 80)=7" -t "$(vip 80)"
    start_nginx rs2
    becomes 60 "both ways" "$(rs 1 80)=7 $(rs 2 80)=1" -t "$(vip 80)"
}
