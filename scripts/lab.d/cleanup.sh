# shellcheck shell=bash
# Beginning and end of a lab: what must be installed, where state is kept, how everything goes away.

need_tools() {
    local tool missing=()
    ((EUID == 0)) || { echo "scripts/lab needs root: it makes network namespaces" >&2 && exit 1; }
    for tool in ip nft ethtool nginx curl ab socat ssh sshd ssh-keygen openssl tcpdump sha256sum ipvsadm dnsmasq busybox; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    if ((${#missing[@]})); then
        echo "missing: ${missing[*]}" >&2
        echo "install: apt-get install iproute2 nftables ethtool nginx-light curl apache2-utils socat" \
            "openssh-server openssh-client openssl tcpdump ipvsadm dnsmasq-base busybox-static" >&2
        exit 1
    fi
    [[ -c /dev/net/tun ]] || { echo "/dev/net/tun is missing: modprobe tun" >&2 && exit 1; }
    local file
    for file in "$(lvsd_bin)" "$(lvsctl_bin)" "$(lvs_run_bin)" "$(program tcp-hold)"; do
        [[ -x $file ]] || { echo "missing $file: cargo build --workspace" >&2 && exit 1; }
    done
}

begin() {
    if [[ -e $LAB_STATE ]] || ip netns list | grep -q "^$LAB_PREFIX-"; then
        echo "a lab is already there; 'scripts/lab --clean' takes it away" >&2
        exit 1
    fi
    mkdir -p "$LAB_STATE"
    chmod 755 "$LAB_STATE"
    : >"$LAB_STATE/pids"
}

# Remembers a process of this lab: PID NAME.
remember() { echo "$1 $2" >>"$LAB_STATE/pids"; }

# Ends what this lab started, first by pid, then whatever still lives in its namespaces.
clean_up() {
    local pid _name namespace
    if [[ -f $LAB_STATE/pids ]]; then
        while read -r pid _name; do
            kill "$pid" 2>/dev/null || true
        done <"$LAB_STATE/pids"
    fi
    for namespace in $(ip netns list | awk -v prefix="$LAB_PREFIX-" 'index($1, prefix) == 1 { print $1 }'); do
        end_processes_of "$namespace"
        ip netns del "$namespace"
    done
    rm -rf "$LAB_STATE" "/dev/shm/$LAB_PREFIX-lab-"*
}

end_processes_of() {
    local signal pids
    for signal in TERM KILL; do
        mapfile -t pids < <(ip netns pids "$1")
        ((${#pids[@]})) || return 0
        kill -s "$signal" "${pids[@]}" 2>/dev/null || true
        until_true 5 namespace_is_empty "$1" && return 0
    done
}

namespace_is_empty() { [[ -z $(ip netns pids "$1") ]]; }

# Ran when the script ends, however it ends.
finish() {
    local status=$?
    trap - EXIT
    if ((status != 0)); then
        show_daemon_logs
    fi
    if [[ $1 == true ]]; then
        cat <<KEPT

The lab is still there. Namespaces: $(ip netns list | awk -v p="$LAB_PREFIX-" 'index($1, p) == 1 { print $1 }' | xargs)
  a client:       ip netns exec $(ns client) bash
  a director:     PATH=$(director_file bin):\$PATH ip netns exec $(ns "$AT") bash
                  ipvsadm, keepalived, ldirectord and lvsctl drive its lvsd there
  its files:      $(director_file lvsd.toml), $LAB_STATE/$AT-lvsd.log
  take it away:   scripts/lab --clean
KEPT
    else
        clean_up
    fi
    exit "$status"
}
