# shellcheck shell=bash
# Blocks of keepalived.conf that several labs put together, and the script that these call.

# begin_conf [LINE...]: a new keepalived.conf of the director that is typed on; the lines are global settings.
# shellcheck disable=SC2120
begin_conf() {
    block "global_defs" "router_id $AT" "script_user root" "enable_script_security" "$@" >"$(director_file keepalived.conf)"
}

# conf COMMAND...: what the command prints is added to the file.
conf() { "$@" >>"$(director_file keepalived.conf)"; }

# block HEAD LINE...
block() {
    echo "$1 {"
    shift
    printf '%s\n' "$@" | sed '/^$/d; s/^/    /'
    echo "}"
}

# checked PORT PROTOCOL CHECK [LINE...]: a service of the VIP over two real servers. In the check %n is the server's number;
# the lines are settings of the service.
checked() {
    block "virtual_server $VIP $1" "delay_loop 1" "lvs_sched rr" "lvs_method NAT" "protocol $2" "retry 1" \
        "delay_before_retry 1" "${@:4}" \
        "$(block "real_server ${RS[1]} $1" "weight 1" "${3//%n/1}")" \
        "$(block "real_server ${RS[2]} $1" "weight 1" "${3//%n/2}")"
}

# vrrp_instance NAME DEVICE ID PRIORITY ADDRESSES [LINE...]: addresses are separated by spaces.
vrrp_instance() {
    block "vrrp_instance $1" "state BACKUP" "interface $2" "virtual_router_id $3" "priority $4" "advert_int 1" "${@:6}" \
        "$(block virtual_ipaddress "${5// /$'\n'}")"
}

# write_note: 'note WORDS' on the director that is typed on adds the words to its notes. keepalived calls it.
write_note() {
    write_script note "echo \"\$@\" >>'$(director_file notes)'"
    : >"$(director_file notes)"
}

# write_script NAME LINE: one of the director that is typed on.
write_script() {
    printf '#!/bin/sh\n%s\n' "$2" >"$(director_file "$1")"
    chmod 755 "$(director_file "$1")"
}

# note WORDS: the command, as keepalived.conf has it.
note() { echo "\"$(director_file note) $*\""; }

# notes PATTERN: what was noted, in one line.
notes() { grep -E "$1" "$(director_file notes)" | paste -sd, || true; }
are_notes() { [[ $(notes "$1") == "$2" ]]; }

# check_notes SENTENCE PATTERN TEXT: the notes that match are TEXT in time.
check_notes() {
    if until_true 60 are_notes "$2" "$3"; then
        pass "$1: $3"
    else
        fail "$1: expected '$3', saw '$(notes "$2")'"
    fi
}

# Whether this machine's kernel has macvlan.
has_macvlan() {
    unshare --net sh -c 'ip link add below type veth peer name other && ip link add above link below type macvlan' 2>/dev/null
}
