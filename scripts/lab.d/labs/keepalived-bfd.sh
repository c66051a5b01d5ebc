# shellcheck shell=bash
# keepalived's BFD on both ends: a real server whose session ends goes out, and a master whose uplink's session ends.

# shellcheck source=scripts/lab.d/takeover.sh
source "$LAB_HOME/scripts/lab.d/takeover.sh"
# shellcheck source=scripts/lab.d/keepalived_blocks.sh
source "$LAB_HOME/scripts/lab.d/keepalived_blocks.sh"

# Thirty packets that are missed, a third of a second apart: a busy machine does not end a session, a dead end does.
BFD=("min_rx 300" "min_tx 300" "idle_tx 300" "multiplier 30")

run_lab() {
    start_pair write_bfd
    start_peers
    comes_up
    server_stops
    server_is_cut_off
    uplink_is_lost
}

# write_bfd PRIORITY: sessions with both servers for the checks, and over IPv6 with the uplink for VRRP.
write_bfd() {
    local n=${AT#director} server
    write_note
    begin_conf
    for server in 1 2; do
        conf block "bfd_instance rs$server" "neighbor_ip ${RS4[server - 1]}" "source_ip 192.0.2.${n}0" "${BFD[@]}" checker
    done
    conf block "bfd_instance uplink" "neighbor_ip 2001:db8:1::fe" "source_ip 2001:db8:1::1$n" "${BFD[@]}" vrrp
    conf block "vrrp_sync_group PAIR" "$(block group OUTSIDE INSIDE)"
    conf vrrp_instance OUTSIDE wan 51 "$1" "$VIP4/32" "$(block track_bfd uplink)" "notify $(note)"
    conf vrrp_instance INSIDE lan 52 "$1" 192.0.2.1/24
    conf checked 80 TCP "$(block BFD_CHECK "name rs%n")"
}

# The far ends: keepalived too, which has nothing but BFD there. The uplink is a router beside the client.
start_peers() {
    local n
    for n in 1 2; do
        write_peer "rs$n" "${RS4[n - 1]}" 192.0.2.10 192.0.2.20
        start_peer "rs$n"
    done
    new_host uplink
    plug uplink eth0 outside
    address uplink eth0 2001:db8:1::fe/64
    write_peer uplink 2001:db8:1::fe 2001:db8:1::11 2001:db8:1::12
    start_peer uplink
}

# write_peer HOST ADDRESS DIRECTOR...
write_peer() {
    local host=$1 address=$2 director
    shift 2
    mkdir -p "$LAB_STATE/$host"
    for director in "$@"; do
        block "bfd_instance director${director//[.:]/_}" "neighbor_ip $director" "source_ip $address" "${BFD[@]}"
    done >"$LAB_STATE/$host/keepalived.conf"
}

start_peer() {
    typed "$1" "keepalived --use-file $LAB_STATE/$1/keepalived.conf"
    start "$1" keepalived "$(PATH=$PATH:/usr/sbin type -P keepalived)" --dont-fork --log-console --log-detail \
        --use-file "$LAB_STATE/$1/keepalived.conf" --pid "$LAB_STATE/$1/keepalived.pid" --bfd_pid "$LAB_STATE/$1/bfd.pid" \
        --checkers_pid "$LAB_STATE/$1/checkers.pid" --vrrp_pid "$LAB_STATE/$1/vrrp.pid"
}

# check_master DIRECTOR OTHER
check_master() {
    at "$2"
    check "$2 has no VIP" until_true 60 is_no_master
    at "$1"
    check "$1 is master" until_true 60 is_master
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "by $1" until_true 60 is_reached
}

comes_up() {
    local n
    check_master director1 director2
    for n in 2 1; do
        at "director$n"
        becomes 60 "director$n: BFD_CHECK has both servers" "$(rs 1 80)=1 $(rs 2 80)=1" -t "$(vip 80)"
    done
    ipvsadm -Ln
    check "pages come from rs1" until_true 60 answers "$(url "$VIP")/" rs1
    check "and from rs2" until_true 60 answers "$(url "$VIP")/" rs2
}

# The real server's keepalived is stopped, and no packet comes any more.
server_stops() {
    stop rs1 keepalived
    becomes 60 "stopped: out of the table" "$(rs 2 80)=1" -t "$(vip 80)"
    check "pages come from the other" only "$(url "$VIP")/" rs2
    start_peer rs1
    becomes 60 "started: in again" "$(rs 1 80)=1 $(rs 2 80)=1" -t "$(vip 80)"
    check "pages come from rs1" until_true 60 answers "$(url "$VIP")/" rs1
}

# The same by a cable that is pulled.
server_is_cut_off() {
    typed switch "ip link set rs2-eth0 down"
    in_ns switch ip link set rs2-eth0 down
    becomes 60 "cut off: out of the table" "$(rs 1 80)=1" -t "$(vip 80)"
    check "pages come from the other" only "$(url "$VIP")/" rs1
    typed switch "ip link set rs2-eth0 up"
    in_ns switch ip link set rs2-eth0 up
    becomes 60 "plugged in: in again" "$(rs 1 80)=1 $(rs 2 80)=1" -t "$(vip 80)"
    check "pages come from rs2" until_true 60 answers "$(url "$VIP")/" rs2
}

# track_bfd: who does not hear the uplink is no master.
uplink_is_lost() {
    at director1
    director_types ip route add blackhole 2001:db8:1::fe/128
    check_notes "the session's end is a fault" "FAULT" "INSTANCE OUTSIDE FAULT 150"
    check_master director2 director1
    at director1
    director_types ip route del blackhole 2001:db8:1::fe/128
    check_master director1 director2
}
