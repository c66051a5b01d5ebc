# shellcheck shell=bash
# Two directors: keepalived's VRRP over their twin interfaces moves the VIP when the master dies.

# shellcheck source=scripts/lab.d/takeover.sh
source "$LAB_HOME/scripts/lab.d/takeover.sh"

run_lab() {
    start_pair write_keepalived
    both_come_up
    both_die
    comes_back
    only_lvsd_dies
}

# write_keepalived PRIORITY
write_keepalived() {
    cat >"$(director_file keepalived.conf)" <<CONF
global_defs {
    router_id $AT
    lvs_sync_daemon lan OUTSIDE4 id 7
}

vrrp_sync_group LAB {
    group {
        OUTSIDE4
        INSIDE4
        OUTSIDE6
        INSIDE6
    }
}

$(vrrp_instance OUTSIDE4 wan 51 "$1" "$VIP4/32")
$(vrrp_instance INSIDE4 lan 52 "$1" 192.0.2.1/24)
$(vrrp_instance OUTSIDE6 wan 51 "$1" fe80::5:1/64 "$VIP6/128")
$(vrrp_instance INSIDE6 lan 52 "$1" fe80::5:2/64 2001:db8:2::1/64)

virtual_server $VIP4 80 {
    delay_loop 1
    lvs_sched rr
    lvs_method NAT
    protocol TCP
$(tcp_server "${RS4[0]}")
$(tcp_server "${RS4[1]}")
}

virtual_server $VIP6 80 {
    delay_loop 1
    lvs_sched rr
    lvs_method NAT
    protocol TCP
$(tcp_server "${RS6[0]}")
$(tcp_server "${RS6[1]}")
}
CONF
}

# vrrp_instance NAME DEVICE ID PRIORITY ADDRESS...
vrrp_instance() {
    cat <<CONF
vrrp_instance $1 {
    state BACKUP
    interface $2
    virtual_router_id $3
    priority $4
    advert_int 1
    virtual_ipaddress {
$(printf '        %s\n' "${@:5}")
    }
}
CONF
}

# tcp_server ADDRESS
tcp_server() {
    cat <<CONF
    real_server $1 80 {
        weight 1
        TCP_CHECK {
            connect_timeout 5
        }
    }
CONF
}

both_come_up() {
    local n
    for n in 1 2; do
        at "director$n"
        check "director$n has both servers, checked through its twin" until_true 60 has_both_servers
    done
    at director2
    check "director2 is backup" until_true 60 is_no_master
    at director1
    check "director1 is master" until_true 60 is_master
    director_types ip -br addr
    ipvsadm -Ln
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "over IPv6 too" until_true 60 answers "$(url "$VIP6")/" rs1 rs2
    check "the client reaches the master's MAC" is_reached
    check_sync director1 director2
}

both_die() {
    run_downloads
    kill_master
    check "IPv6 works again too" until_true 60 answers "$(url "$VIP6")/" rs1 rs2
    check_ab 500 10 "$(url "$VIP")"
    check_downloads
    ipvsadm -Ln --stats
}

# The old master returns; the higher priority takes the VIP back without a gap.
comes_back() {
    at director1
    run_lvsd
    own_addresses 1
    start_keepalived
    check "director1 is master again" until_true 60 is_master
    check "pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    check "by director1" until_true 60 is_reached
    at director2
    check "director2 has given the VIP up" until_true 60 is_no_master
}

# Without lvsd there is no twin, so keepalived has no network either.
only_lvsd_dies() {
    at director1
    end_lvsd KILL
    check_takeover "lvsd alone of the master killed" director2
    check_ab 500 10 "$(url "$VIP")"
}
