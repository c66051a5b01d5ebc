# shellcheck shell=bash
# NAT for what operators balance besides the web: ssh, telnet, TLS, a database's port, UDP.

run_lab() {
    local family host
    nat_network 2
    for host in rs1 rs2; do
        start_nginx "$host"
        start_sshd "$host"
        start "$host" telnet socat TCP6-LISTEN:23,ipv6only=0,fork,reuseaddr "SYSTEM:echo $host"
        start "$host" echo socat TCP6-LISTEN:3306,ipv6only=0,fork,reuseaddr PIPE
        start_udp_echo "$host" "0.0.0.0:53" "[::]:53" --say "$host"
        wait_listen "$host" 23
        wait_listen "$host" 3306
    done
    start_lvsd
    nat_addresses
    for family in $FAMILIES; do
        use_family "$family"
        add_services
        check "the first page comes" until_true 60 answers "https://$(host_of "$VIP")/" rs1 rs2
        check_services
        ipvsadm -Ln
    done
}

add_services() {
    local port
    for port in 22 23 443 3306; do
        ipvsadm -A -t "$(vip "$port")" -s rr
        ipvsadm -a -t "$(vip "$port")" -r "$(rs 1 "$port")" -m
        ipvsadm -a -t "$(vip "$port")" -r "$(rs 2 "$port")" -m
    done
    ipvsadm -A -u "$(vip 53)" -s rr
    ipvsadm -a -u "$(vip 53)" -r "$(rs 1 53)" -m
    ipvsadm -a -u "$(vip 53)" -r "$(rs 2 53)" -m
}

# both WORDS: what came, sorted and counted, must be both servers twice.
check_both() {
    equal "$1: both servers, twice each" "rs1 rs1 rs2 rs2" "$(tr ' ' '\n' <<<"$2" | sort | xargs)"
}

# four COMMAND...: its output four times, one word each.
four() {
    local n
    for ((n = 0; n < 4; n++)); do
        "$@" || echo nothing
    done | xargs
}

talk() { in_ns client socat -T 20 - "$1" </dev/null; }

check_services() {
    local host
    host=$(host_of "$VIP")
    check_both "ssh login" "$(four ssh_from_client "$VIP")"
    check_both "telnet" "$(four talk "TCP:$host:23")"
    check_both "TLS page" "$(four page "https://$host/")"
    check_both "UDP question" "$(four udp_says 53)"
    equal "an echo on the database's port" "select 1" "$(tcp_says 3306 "select 1")"
}
