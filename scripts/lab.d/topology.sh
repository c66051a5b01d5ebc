# shellcheck shell=bash
# Namespaces, LANs and the cables between them. All addresses are documentation addresses.

ns() { echo "$LAB_PREFIX-$1"; }

# in_ns HOST COMMAND...
in_ns() {
    local host=$1
    shift
    ip netns exec "$(ns "$host")" "$@"
}

# new_host HOST: a namespace with loopback, no redirects, no source filter (replies take other ways here).
new_host() {
    ip netns add "$(ns "$1")"
    in_ns "$1" ip link set lo up
    set_sysctl "$1" net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
        net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 \
        net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0 \
        net.ipv4.ping_group_range="0 2147483647" net.ipv4.tcp_max_syn_backlog=8192
}

# new_real_server HOST LAN ADDRESS4 ADDRESS6 GATEWAY4 GATEWAY6
new_real_server() {
    new_host "$1"
    plug "$1" eth0 "$2"
    address "$1" eth0 "$3" "$4"
    gateway "$1" "$5" "$6"
}

# set_sysctl HOST KEY=VALUE...
set_sysctl() {
    local host=$1
    shift
    in_ns "$host" sysctl -qw "$@"
}

# new_lan LAN: a bridge in the namespace 'switch'.
new_lan() {
    ip netns list | grep -q "^$(ns switch)\b" || new_host switch
    in_ns switch ip link add "$1" type bridge
    in_ns switch ip link set "$1" up
}

# plug HOST INTERFACE LAN: a cable from the host to the LAN, without any offload: a virtual cable would
# carry frames with unfinished checksums or of 64 KiB, which no wire does.
plug() {
    local host=$1 interface=$2 lan=$3
    in_ns "$host" ip link add "$interface" type veth peer name "$host-$interface" netns "$(ns switch)"
    in_ns switch ip link set "$host-$interface" master "$lan" up
    in_ns "$host" ethtool -K "$interface" tx off rx off tso off gso off gro off >/dev/null
    in_ns switch ethtool -K "$host-$interface" tx off rx off tso off gso off gro off >/dev/null
    in_ns "$host" ip link set "$interface" up
}

# plug_device DEVICE LAN: an end of the director that is typed on, which belongs to lvsd alone. The kernel must be deaf on it, or
# it would answer too; packet sockets see frames before the ingress hook.
plug_device() {
    local cable=${1}0
    plug "$AT" "$cable" "$2"
    in_ns "$AT" sysctl -qw "net.ipv6.conf.$cable.disable_ipv6=1"
    in_ns "$AT" ip link set "$cable" arp off promisc on
    in_ns "$AT" nft -f - <<NFT
table netdev deaf_$cable {
    chain ingress {
        type filter hook ingress device "$cable" priority 0; policy drop;
    }
}
NFT
    # shellcheck disable=SC2004
    DEVICES_OF[$AT]="${DEVICES_OF[$AT]:-} $1"
}

# address HOST INTERFACE ADDRESS/LEN...
address() {
    local host=$1 interface=$2 addr
    shift 2
    for addr in "$@"; do
        if [[ $addr == *:* ]]; then
            in_ns "$host" ip addr replace "$addr" dev "$interface" nodad
        else
            in_ns "$host" ip addr replace "$addr" dev "$interface"
        fi
    done
}

# gateway HOST IPV4 IPV6: default routes.
gateway() {
    in_ns "$1" ip route add default via "$2"
    in_ns "$1" ip -6 route add default via "$3"
}

# silent_vip HOST ADDRESS...: the VIP on a real server's lo, never announced.
silent_vip() {
    local host=$1 vip
    shift
    set_sysctl "$host" net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
    for vip in "$@"; do
        address "$host" lo "$vip"
    done
}

# forward HOST: makes it a router.
forward() { set_sysctl "$1" net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; }

# The client's side of every lab. Crowds come from an address of their own, whose ports are all free.
CLIENT4=198.51.100.2 CLIENT6=2001:db8:1::2
CROWD4=198.51.100.3 CROWD6=2001:db8:1::3

new_client() {
    new_host client
    plug client eth0 outside
    address client eth0 "$CLIENT4/24" "$CLIENT6/64" "$CROWD4/24"
    # Deprecated: taken only when asked for by name.
    in_ns client ip addr add "$CROWD6/64" dev eth0 nodad preferred_lft 0
}
