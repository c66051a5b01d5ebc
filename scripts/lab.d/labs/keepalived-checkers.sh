# shellcheck shell=bash
# Every kind of keepalived's checks against real small servers, in both families: each server goes and comes back.

# shellcheck source=scripts/lab.d/keepalived_blocks.sh
source "$LAB_HOME/scripts/lab.d/keepalived_blocks.sh"
# shellcheck source=scripts/lab.d/checked_servers.sh
source "$LAB_HOME/scripts/lab.d/checked_servers.sh"

run_lab() {
    start_nat_of_three
    start_small_servers
    write_checks
    start_keepalived
    all_come_up
    check_pages
    check_mail
    check_names
    check_killed
    check_silence
    check_weights
    stop_keepalived
    equal "a stopped keepalived leaves no service" "" "$(ipvsadm_quiet -Sn)"
}

# both_have SENTENCE PORT WEIGHT...: the service has these servers over IPv4 and IPv6; a weight for each, - if it is out.
both_have() {
    local sentence=$1 port=$2 weight n expected4=() expected6=() option=-t
    shift 2
    case $port in 7 | 53) option=-u ;; esac
    for n in 1 2; do
        weight=${!n}
        [[ $weight == - ]] && continue
        expected4+=("${RS4[n - 1]}:$port=$weight")
        expected6+=("[${RS6[n - 1]}]:$port=$weight")
    done
    becomes 60 "$sentence" "${expected4[*]}" "$option" "$VIP4:$port"
    becomes 60 "$sentence, IPv6" "${expected6[*]}" "$option" "[$VIP6]:$port"
}

all_come_up() {
    local port
    for port in 80 443 8080 7 53 25 8081 110 143 993; do
        both_have "port $port has both servers" "$port" 1 1
    done
    ipvsadm -Ln
}

# serves WORDS COMMAND...: eight times the command says one of the words, and each of them once at least.
serves() {
    local words=$1 said
    shift
    said=$(for _ in 1 2 3 4 5 6 7 8; do "$@"; done | sort -u | xargs)
    [[ $said == "$words" ]]
}

both_serve() { check "$1: both serve again" until_true 60 serves "rs1 rs2" "${@:2}"; }
only_rs2_serves() { check "$1: rs2 serves alone" serves "rs2" "${@:2}"; }

check_pages() {
    touch "$LAB_STATE/rs1-page"
    both_have "HTTP_GET: a wrong page" 80 - 1
    both_have "SSL_GET: a wrong page" 443 - 1
    only_rs2_serves https page "https://$VIP/"
    rm "$LAB_STATE/rs1-page"
    both_have "HTTP_GET: the right page" 80 1 1
    both_have "SSL_GET: the right page" 443 1 1
    both_serve https page "https://$VIP/"
}

# mail: who greets the client.
mail() { in_ns client socat -t 10 - "TCP:$VIP:25" <<<QUIT | awk 'NR == 1 { print $2 }'; }

check_mail() {
    touch "$LAB_STATE/rs1-closed"
    both_have "SMTP_CHECK: greeted with 421" 25 - 1
    only_rs2_serves mail mail
    rm "$LAB_STATE/rs1-closed"
    both_have "SMTP_CHECK: greeted with 220" 25 1 1
    both_serve mail mail
}

# name: which server answers for www.example.
name() { in_ns client busybox nslookup -type=a www.example "$VIP" | awk '/^Address: 192.0.2.1/ { print "rs" substr($2, 10) }'; }

check_names() {
    stop rs1 dnsmasq
    start_dnsmasq 1 other.example
    both_have "DNS_CHECK: the name is unknown" 53 - 1
    only_rs2_serves names name
    stop rs1 dnsmasq
    start_dnsmasq 1 www.example
    both_have "DNS_CHECK: the name is known" 53 1 1
    both_serve names name
}

# Nothing listens: refused at once, by a reset or by an ICMP error.
check_killed() {
    stop rs1 nginx
    stop rs1 udp-echo
    both_have "TCP_CHECK: killed" 8080 - 1
    both_have "UDP_CHECK: killed" 7 - 1
    only_rs2_serves UDP udp_says 7
    start_nginx rs1
    start_echo 1
    both_have "TCP_CHECK: started" 8080 1 1
    both_have "UDP_CHECK: started" 7 1 1
    both_serve UDP udp_says 7
}

check_silence() {
    set_sysctl rs1 net.ipv4.icmp_echo_ignore_all=1 net.ipv6.icmp.echo_ignore_all=1
    both_have "PING_CHECK: no answer" 8081 - 1
    set_sysctl rs1 net.ipv4.icmp_echo_ignore_all=0 net.ipv6.icmp.echo_ignore_all=0
    both_have "PING_CHECK: an answer" 8081 1 1
}

# A script's exit status less two is a weight. What stands in a file is added to the weight, or is a fault.
check_weights() {
    echo 9 >"$LAB_STATE/rs1-load"
    both_have "MISC_CHECK misc_dynamic: a script ends with 9" 110 7 1
    echo 1 >"$LAB_STATE/rs1-load"
    both_have "MISC_CHECK: it ends with 1" 110 - 1
    echo 0 >"$LAB_STATE/rs1-load"
    both_have "MISC_CHECK: it ends with 0" 110 1 1
    echo 4 >"$LAB_STATE/rs1-weight"
    both_have "FILE_CHECK dynamic: 4 more" 143 5 1
    echo 0 >"$LAB_STATE/rs1-weight"
    both_have "FILE_CHECK dynamic: nothing more" 143 1 1
    echo 1 >"$LAB_STATE/rs1-fault"
    both_have "FILE_CHECK: 1 is a fault" 993 - 1
    echo 0 >"$LAB_STATE/rs1-fault"
    both_have "FILE_CHECK: 0 is none" 993 1 1
}
