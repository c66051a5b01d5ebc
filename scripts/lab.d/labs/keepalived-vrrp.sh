# shellcheck shell=bash
# VRRP as people run it: unicast peers, a sync group, nopreempt, notify scripts, virtual routes and rules, ha_suspend, reload.

# shellcheck source=scripts/lab.d/takeover.sh
source "$LAB_HOME/scripts/lab.d/takeover.sh"
# shellcheck source=scripts/lab.d/keepalived_blocks.sh
source "$LAB_HOME/scripts/lab.d/keepalived_blocks.sh"

# Ten adverts that are missed, not three: a busy machine moves no VIP.
PATIENT="down_timer_adverts 10"

run_lab() {
    start_pair write_pair
    add_far_client
    comes_up
    speaks_unicast
    suspends_checks
    reloads_under_downloads
    follows_the_group
    does_not_preempt
    leaves_when_told
}

# write_pair PRIORITY [WEIGHT]: of director N, and of rs1 on port 8080, which comes with a weight.
write_pair() {
    local n=${AT#director} check
    [[ -e $(director_file note) ]] || write_note
    check=$(block HTTP_GET "$(block url "path /" "status_code 200")" "connect_timeout 10")
    begin_conf
    conf block "vrrp_sync_group PAIR" "$(block group OUTSIDE INSIDE)" "notify_master $(note group master)" \
        "notify_backup $(note group backup)" "notify_fault $(note group fault)"
    conf vrrp_instance OUTSIDE wan 51 "$1" "$VIP4/32" nopreempt "$PATIENT" "unicast_src_ip 198.51.100.1$n" \
        "$(block unicast_peer "198.51.100.1$((3 - n))")" "notify $(note)" "notify_stop $(note OUTSIDE stops)" \
        "$(block virtual_routes "default via 198.51.100.254 dev wan table 100")" \
        "$(block virtual_rules "to 203.0.113.0/24 table 100 priority 1000")"
    conf vrrp_instance INSIDE lan 52 "$1" 192.0.2.1/24 nopreempt "$PATIENT"
    conf checked 80 TCP "$check" ha_suspend
    (($# == 1)) || conf checked 8080 TCP "$check" ha_suspend
}

# Behind a router of the clients' LAN are clients to whom only a table of the master leads.
add_far_client() {
    new_lan remote
    new_host edge
    forward edge
    plug edge outside outside
    plug edge remote remote
    address edge outside 198.51.100.254/24 && address edge remote 203.0.113.1/24
    new_host far
    plug far eth0 remote
    address far eth0 203.0.113.2/24
    in_ns far ip route add default via 203.0.113.1
}

far_page() { [[ $(in_ns far curl -s --max-time 10 "$(url "$VIP")/" || true) == rs[12] ]]; }
# has_rule: whether the director that is typed on looks the far clients up in table 100.
has_rule() { [[ $(on_director ip rule show) == *"to 203.0.113.0/24 lookup 100"* ]]; }
has_route() { [[ $(on_director ip route show table 100 2>/dev/null) == default*198.51.100.254* ]]; }
has_no_rule() { ! has_rule; }

# check_masters SENTENCE MASTER BACKUP
check_masters() {
    at "$3"
    check "$1: $3 has neither VIP" until_true 60 is_no_master
    check "nor virtual rule" until_true 60 has_no_rule
    at "$2"
    check "$1: $2 is master" until_true 60 is_master
    check "with its virtual rule" until_true 60 has_rule
    check "and virtual route" until_true 60 has_route
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "by $2" until_true 60 is_reached
    check "pages come to far clients, by the virtual route" until_true 60 far_page
}

comes_up() {
    check_masters "at first" director1 director2
    director_types ip rule
    check_notes "notify" "INSTANCE OUTSIDE" "INSTANCE OUTSIDE BACKUP 150,INSTANCE OUTSIDE MASTER 150"
    check_notes "of the group too" "^group" "group backup,group master"
    at director2
    check_notes "notify on the backup" "INSTANCE OUTSIDE" "INSTANCE OUTSIDE BACKUP 100"
}

speaks_unicast() {
    capture switch director2-wan0 adverts ip proto 112
    check "adverts come to the peer alone" until_true 60 at_least_frames 3 adverts src 198.51.100.11 and dst 198.51.100.12
    equal "none is multicast" 0 "$(frames adverts dst 224.0.0.18)"
    stop_capture
}

# A backup has no VIP, so it leaves the servers in peace.
suspends_checks() {
    forget_requests rs1
    check "ha_suspend: the master checks" until_true 60 has_requests_from rs1 192.0.2.10 5
    equal "the backup does not" 0 "$(requests_from rs1 192.0.2.20)"
}

reloads_under_downloads() {
    local before
    at director1
    before=$(notes .)
    start_downloads 4 "$(url "$VIP")"
    check "downloads run" until_true 60 at_least_active 4
    write_pair 150 more
    reload_keepalived
    becomes 60 "a reload brings a new service" "$(rs 1 8080)=1 $(rs 2 8080)=1" -t "$(vip 8080)"
    check "pages of it come" until_true 60 answers "$(url "$VIP" 8080)/" rs1:8080 rs2:8080
    at director2
    write_pair 100 more
    reload_keepalived
    becomes 60 "on the backup too" "$(rs 1 8080)=1 $(rs 2 8080)=1" -t "$(vip 8080)"
    at director1
    equal "all downloads run on" 4 "$(still_downloading)"
    check_downloads
    equal "no state has changed" "$before" "$(notes .)"
}

# The master's inner link goes, and the sync group takes the outer instance along.
follows_the_group() {
    director_types ip link set lan down
    check_masters "the master's lan is down" director2 director1
    at director1
    check_notes "OUTSIDE went with INSIDE" "INSTANCE OUTSIDE FAULT" "INSTANCE OUTSIDE FAULT 150"
    check_notes "the group's script" "^group fault" "group fault"
    forget_requests rs1
    check "ha_suspend: the new master checks" until_true 60 has_requests_from rs1 192.0.2.20 5
}

does_not_preempt() {
    at director1
    : >"$(director_file notes)"
    director_types ip link set lan up
    check_notes "lan is up again: no master" "INSTANCE OUTSIDE" "INSTANCE OUTSIDE BACKUP 150"
    capture switch director1-wan0 adverts ip proto 112
    check "nopreempt: director1 hears five adverts of less priority" \
        until_true 60 at_least_frames 5 adverts src 198.51.100.12 and dst 198.51.100.11
    stop_capture
    check_masters "nopreempt" director2 director1
}

leaves_when_told() {
    at director2
    stop_keepalived
    check_notes "notify_stop" "OUTSIDE stops" "OUTSIDE stops"
    check_masters "keepalived of the master was stopped" director1 director2
    check_ab 500 10 "$(url "$VIP")"
}
