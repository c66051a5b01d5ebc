# shellcheck shell=bash
# The tools as an operator types them on a director, and what listings say there.

# The director that is typed on; labs with two of them change it with 'at'.
AT=director

lvsctl_bin() { echo "${LVSCTL_BIN:-$LAB_HOME/target/debug/lvsctl}"; }
# Finds the library beside itself.
lvs_run_bin() { echo "${LVS_RUN_BIN:-$(dirname "$(lvsctl_bin)")/lvs-run}"; }

# at HOST: commands are typed on this director from now on.
at() { AT=$1; }

# director_file NAME: a file of the director that is typed on.
director_file() { echo "$LAB_STATE/$AT/$1"; }

# The tools by their own names, led to this director's lvsd: what an installed lvs-run does for them.
write_tools() {
    local tool
    mkdir -p "$(director_file bin)"
    for tool in ipvsadm ipvsadm-save ipvsadm-restore keepalived ldirectord; do
        write_tool "$tool" "'$(lvs_run_bin)' --socket '$(director_file ipvs.sock)' '$(PATH=$PATH:/usr/sbin type -P "$tool")'"
    done
    write_tool lvs-run "'$(lvs_run_bin)' --socket '$(director_file ipvs.sock)'"
    write_tool lvsctl "'$(lvsctl_bin)' --socket '$(director_file api.sock)'"
}

write_tool() {
    printf '#!/bin/sh\nexec %s "$@"\n' "$2" >"$(director_file "bin/$1")"
    chmod 755 "$(director_file "bin/$1")"
}

# on_director COMMAND...: done on the director that is typed on; the tools are in its PATH.
on_director() { PATH=$(director_file bin):$PATH in_ns "$AT" "$@"; }
lvsctl_quiet() { on_director lvsctl "$@"; }
ipvsadm_quiet() { on_director ipvsadm "$@"; }

# lvsctl ARGUMENTS..., ipvsadm ARGUMENTS...: shown as typed, and done.
lvsctl() {
    typed "$AT" "lvsctl $*"
    lvsctl_quiet "$@"
}

ipvsadm() {
    typed "$AT" "ipvsadm $*"
    ipvsadm_quiet "$@"
}

# director_types COMMAND...: shown as typed, and done.
director_types() {
    typed "$AT" "$*"
    on_director "$@"
}

typed() { echo "$1\$ $2"; }

# make_twins: those of all devices, before lvsd starts. So they keep their addresses and routes while it is away.
make_twins() {
    local device
    for device in ${DEVICES_OF[$AT]}; do
        director_types ip tuntap add dev "$device" mode tap
    done
}

# twin_has DEVICE ADDRESS/LEN...: gives the device's kernel twin its addresses, as an operator would.
twin_has() {
    local device=$1 addr
    shift
    for addr in "$@"; do
        if [[ $addr == *:* ]]; then
            director_types ip addr replace "$addr" dev "$device" nodad
        else
            director_types ip addr replace "$addr" dev "$device"
        fi
    done
}

# rows: of a listing, the lines of real servers.
rows() { awk '$1 == "->" && $2 != "RemoteAddress:Port"'; }

# rows_of VIP:PORT: its rows of -Lnc, single spaces between the columns.
rows_of() { ipvsadm_quiet -Lnc | awk -v vip="$1" '$5 == vip { $1 = $1; print }'; }

# sum_of_column SERVICE COLUMN: a number of 'ipvsadm -Ln --stats --exact' over all servers
# (1 Conns, 2 InPkts, 3 OutPkts, 4 InBytes, 5 OutBytes).
sum_of_column() {
    ipvsadm_quiet -Ln -t "$1" --stats --exact | rows | awk -v column="$2" '{ sum += $(column + 2) } END { print sum + 0 }'
}

# active_conns SERVICE: ActiveConn of all its servers together.
active_conns() { ipvsadm_quiet -Ln -t "$1" | rows | awk '{ sum += $5 } END { print sum + 0 }'; }

