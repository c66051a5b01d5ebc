# shellcheck shell=bash
# An ordinary keepalived.conf: three services over IPv4 and one over IPv6, with every kind of check and what they call.

# The check of MISC_CHECK, and what quorum_up and quorum_down do.
write_scripts() {
    cat >"$(director_file check_dns)" <<SH
#!/bin/sh
test -e "$LAB_STATE/dns-\$1"
SH
    cat >"$(director_file quorum)" <<SH
#!/bin/sh
echo "\$1" >>"$(director_file quorum.log)"
SH
    chmod 755 "$(director_file check_dns)" "$(director_file quorum)"
    touch "$LAB_STATE/dns-rs1" "$LAB_STATE/dns-rs2" "$(director_file quorum.log)"
}

# write_keepalived WEIGHT: of rs1 at the web service.
write_keepalived() {
    cat >"$(director_file keepalived.conf)" <<CONF
global_defs {
    router_id lab
    script_user root
    enable_script_security
}

virtual_server $VIP4 80 {
    delay_loop 1
    lvs_sched wrr
    lvs_method NAT
    protocol TCP
    quorum 1
    quorum_up "$(director_file quorum) up"
    quorum_down "$(director_file quorum) down"
    sorry_server ${RS[3]} 80

$(http_server 1 "$1")
$(http_server 2 1)
}

virtual_server $VIP4 443 {
    delay_loop 1
    lvs_sched rr
    lvs_method NAT
    persistence_timeout 50
    protocol TCP

    real_server ${RS[1]} 443 {
        weight 1
        inhibit_on_failure
        TCP_CHECK {
            connect_timeout 5
            retry 1
            delay_before_retry 1
        }
    }
    real_server ${RS[2]} 443 {
        weight 1
        TCP_CHECK {
            connect_timeout 5
        }
    }
}

virtual_server $VIP4 53 {
    delay_loop 1
    lvs_sched rr
    lvs_method NAT
    protocol UDP
    ops

$(misc_server 1)
$(misc_server 2)
}

virtual_server $VIP6 80 {
    delay_loop 1
    lvs_sched wlc
    lvs_method NAT
    protocol TCP

    real_server ${RS6[0]} 80 {
        TCP_CHECK {
            connect_timeout 5
        }
    }
}
CONF
}

http_server() {
    cat <<CONF
    real_server ${RS[$1]} 80 {
        weight $2
        HTTP_GET {
            url {
                path /
                status_code 200
            }
            connect_timeout 5
            retry 1
            delay_before_retry 1
        }
    }
CONF
}

misc_server() {
    cat <<CONF
    real_server ${RS[$1]} 53 {
        weight 1
        MISC_CHECK {
            misc_path "$(director_file check_dns) rs$1"
            misc_timeout 10
        }
    }
CONF
}
