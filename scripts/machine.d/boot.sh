# shellcheck shell=bash
# The emulated machine, running: qemu with an IOMMU, a management NIC with ssh, and one PCI NIC for each of DEVICES.

MACHINE_SSH_PORT=22
MACHINE_MANAGEMENT=192.0.2.250 MACHINE_HOST=192.0.2.249

# Settings of a run: the kind of NIC, requests of a crowd, memory of the guest and its hugepages.
MACHINE_NIC=${MACHINE_NIC:-virtio-rss} MACHINE_REQUESTS=${MACHINE_REQUESTS:-200}
MACHINE_MB=${MACHINE_MB:-2048} MACHINE_HUGEPAGES_MB=${MACHINE_HUGEPAGES_MB:-512}
# Queues of each NIC, and processors but one: for the most workers of a run.
MACHINE_QUEUES=${MACHINE_QUEUES:-4}

machine_folder() { echo "$LAB_STATE/machine"; }

# machine_nic KIND: qemu's device for a kind of NIC. Only the first two really spread frames over queues.
machine_nic() {
    case $1 in
    virtio-rss) echo "virtio-net-pci,iommu_platform=on,ats=on,disable-legacy=on,mq=on,vectors=$((2 * MACHINE_QUEUES + 2)),rss=on,hash=on,rx_queue_size=1024" ;;
    igb) echo igb ;;
    e1000e) echo e1000e ;;
    vmxnet3) echo vmxnet3 ;;
    *) echo "unknown kind of NIC: $1" >&2 && exit 2 ;;
    esac
}

# tap_queues KIND: virtio has as many queues as its tap; the others make queues of one.
tap_queues() { if [[ $1 == virtio-rss ]]; then echo "$MACHINE_QUEUES"; else echo 1; fi; }

# plug_nic DEVICE LAN: the host's end of one of the machine's NICs, in the namespace 'switch' where qemu runs.
plug_nic() {
    local queues=()
    (($(tap_queues "$MACHINE_NIC") == 1)) || queues=(multi_queue)
    in_ns switch ip tuntap add "nic-$1" mode tap "${queues[@]}" vnet_hdr
    in_ns switch ip link set "nic-$1" master "$2" up
    DEVICES+=("$1")
}

# What the guest's init runs in its file tree before systemd starts.
write_prepare() {
    local folder
    folder=$(machine_folder)
    mkdir -p "$folder"
    ssh-keygen -q -t ed25519 -N '' -f "$folder/key" <<<y >/dev/null
    ssh-keygen -q -t ed25519 -N '' -f "$folder/host_key" <<<y >/dev/null
    cat >"$folder/prepare" <<'PREPARE'
tree=$1
units=$tree/etc/systemd/system
rm -rf "$units"/*
mkdir -p "$units" "$tree/run/sshd"
echo director >"$tree/etc/hostname"
# A machine without would enable every unit there is.
echo 6d616368696e652d6f662d6c7673640a >"$tree/etc/machine-id"
cp "$tree/run/machine/host_key" "$tree/etc/machine_host_key"
chmod 600 "$tree/etc/machine_host_key"
mkdir -p "$tree/root/.ssh"
cp "$tree/run/machine/key.pub" "$tree/root/.ssh/authorized_keys"
chmod 600 "$tree/root/.ssh/authorized_keys"
# What a director has no use for, and what takes its time in an emulation.
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
    systemd-hwdb-update.service systemd-firstboot.service systemd-sysusers.service systemd-random-seed.service \
    systemd-journal-flush.service systemd-journal-catalog-update.service systemd-update-done.service systemd-pcrphase.service \
    systemd-networkd.service systemd-networkd.socket systemd-network-generator.service systemd-tmpfiles-setup-dev.service \
    systemd-binfmt.service systemd-boot-update.service systemd-update-utmp.service systemd-machine-id-commit.service \
    systemd-update-utmp-runlevel.service systemd-logind.service systemd-user-sessions.service getty.target dbus.service dbus.socket \
    nftables.service ldconfig.service kmod-static-nodes.service dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount modprobe@configfs.service \
    modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@loop.service; do
    ln -s /dev/null "$units/$unit"
done
# The index of manual pages is made anew for minutes.
rm -f "$tree/var/lib/man-db/auto-update"
mkdir "$units/multi-user.target.wants"
ln -s ../machine-ssh.service "$units/multi-user.target.wants"
cat >"$units/machine-ssh.service" <<UNIT
[Service]
RuntimeDirectory=sshd
ExecStartPre=/bin/sh /etc/machine-names
ExecStart=/usr/sbin/sshd -D -e -f /dev/null -o HostKey=/etc/machine_host_key -o UsePAM=no -o StrictModes=no -o UseDNS=no
UNIT
# Names as Debian gives them by a NIC's place, whatever order their drivers came in; udev has no say in it.
mkdir -p "$tree/etc/systemd/network"
ln -s /dev/null "$tree/etc/systemd/network/99-default.link"
cat >"$tree/etc/machine-names" <<NAMES
for path in /sys/class/net/*; do
    case \$(cat "\$path/address") in
    02:00:00:00:00:fe) ip link set "\${path##*/}" name mgmt ;;
    02:00:00:00:00:01) ip link set "\${path##*/}" name enp1s0 ;;
    02:00:00:00:00:02) ip link set "\${path##*/}" name enp2s0 ;;
    02:00:00:00:00:11) ip link set "\${path##*/}" name enp4s1 ;;
    02:00:00:00:00:12) ip link set "\${path##*/}" name enp4s2 ;;
    esac
done
ip link set mgmt up
ip address add ADDRESS/30 dev mgmt
NAMES
# No boot loader starts this kernel. Its command line is what GRUB would make of the files that lvs-host writes for it.
cat >"$tree/usr/sbin/update-grub" <<GRUB
#!/bin/sh
for file in /etc/default/grub.d/*.cfg; do
    if [ -e "\$file" ]; then . "\$file"; fi
done
echo "\$GRUB_CMDLINE_LINUX" >/run/machine/command-line
GRUB
chmod 755 "$tree/usr/sbin/update-grub"
PREPARE
    sed -i "s/ADDRESS/$MACHINE_MANAGEMENT/" "$folder/prepare"
}

# What the machine's firmware has switched on: VT-d, or nothing.
MACHINE_VTD="-device intel-iommu,intremap=on,device-iotlb=on,caching-mode=on"

# boot_machine KIND FIRMWARE WORDS: boots the guest with these words on its kernel's command line and waits for its ssh.
boot_machine() {
    local folder
    folder=$(machine_folder)
    find_qemu "$1"
    build_machine
    write_prepare
    echo "$2" >"$folder/firmware"
    echo "$3" >"$folder/command-line"
    truncate -s 4G "$folder/disk"
    mkfs.ext4 -q -O ^metadata_csum,^has_journal "$folder/disk"
    in_ns switch ip tuntap add management mode tap vnet_hdr
    in_ns switch ip address add "$MACHINE_HOST/30" dev management
    in_ns switch ip link set management up
    start_guest "$1"
}

# start_guest KIND: behind a bridge lie two more NICs, in one IOMMU group.
start_guest() {
    local folder device index=1 nic queues words begun=$SECONDS
    folder=$(machine_folder)
    # It comes before the NICs.
    read -ra words <"$folder/firmware"
    nic=$(machine_nic "$1")
    queues=$(tap_queues "$1")
    # Said, it is refused for a tap of one queue.
    if ((queues > 1)); then queues=,queues=$queues; else queues=""; fi
    for device in "${DEVICES[@]}"; do
        words+=(-device "pcie-root-port,id=port$index,chassis=$index,slot=$index"
            -netdev "tap,id=net$index,ifname=nic-$device$queues,script=no,downscript=no,vhost=off"
            -device "${nic%%,*},netdev=net$index,mac=02:00:00:00:00:0$index,bus=port$index${nic#"${nic%%,*}"}")
        index=$((index + 1))
    done
    start switch machine "${QEMU[@]}" -machine q35,usb=off -cpu max,vendor=GenuineIntel \
        -smp "$((MACHINE_QUEUES + 1))" -m "$MACHINE_MB" -nodefaults -no-user-config -display none -no-reboot \
        -kernel "$MACHINE_CACHE/vmlinuz" -initrd "$MACHINE_CACHE/initrd" -serial "file:$folder/console" \
        "${words[@]}" -device virtio-rng-pci -monitor "unix:$folder/monitor,server=on,wait=off" \
        -drive "file=$folder/disk,format=raw,if=none,id=disk,cache=unsafe" -device virtio-blk-pci,drive=disk,num-queues=1 \
        -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap -device virtio-9p-pci,fsdev=host,mount_tag=host \
        -fsdev "local,id=run,path=$folder,security_model=none" -device virtio-9p-pci,fsdev=run,mount_tag=run \
        -netdev tap,id=management,ifname=management,script=no,downscript=no,vhost=off \
        -device virtio-net-pci,netdev=management,mac=02:00:00:00:00:fe,romfile= \
        -device pcie-pci-bridge,id=bridge,addr=0x1e \
        -device virtio-net-pci,bus=bridge,addr=1,mac=02:00:00:00:00:11,romfile= \
        -device virtio-net-pci,bus=bridge,addr=2,mac=02:00:00:00:00:12,romfile= \
        -append "console=ttyS0 quiet mitigations=off random.trust_cpu=on tsc=reliable no_timer_check panic=-1 net.ifnames=0 systemd.unit=multi-user.target systemd.show_status=0 nokaslr $(cat "$folder/command-line")"
    until_true "${MACHINE_BOOT_SECONDS:-300}" machine_answers || {
        echo "the emulated machine does not answer; the end of its console:" >&2
        tail -n 30 "$folder/console" >&2
        exit 1
    }
    log_in
    echo "booted in $((SECONDS - begun)) s; $(in_machine uname -r), $(in_machine nproc --all) processors: $(cat "$folder/command-line")"
}

# reboot_machine: as its operator would, with VT-d and the command line that the boot loader has by then.
reboot_machine() {
    local pid
    echo "$MACHINE_VTD" >"$(machine_folder)/firmware"
    pid=$(pid_of switch machine)
    typed director reboot
    echo "systemctl reboot" >&"$MACHINE_KEYS"
    until_true 120 has_ended "$pid" || {
        echo "the emulated machine does not shut down; the end of its console:" >&2
        tail -n 30 "$(machine_folder)/console" >&2
        exit 1
    }
    find_qemu "$MACHINE_NIC"
    start_guest "$MACHINE_NIC"
}

has_ended() { ! kill -0 "$1" 2>/dev/null; }

# monitor COMMAND: to qemu, whose hand is on the machine's cables.
monitor() {
    typed qemu "$1"
    echo "$1" | socat -t 1 - "UNIX-CONNECT:$(machine_folder)/monitor" >/dev/null
}

machine_answers() { machine_ssh true 2>/dev/null; }

# machine_ssh COMMAND: a login of its own, which takes its time in an emulation.
machine_ssh() {
    in_ns switch ssh -q -F /dev/null -i "$(machine_folder)/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        -o ConnectTimeout=10 -o ServerAliveInterval=30 -p "$MACHINE_SSH_PORT" "root@$MACHINE_MANAGEMENT" "$@"
}

# log_in: one shell on the machine, over ssh, that stays open; 'in_machine' types into it.
log_in() {
    local folder
    folder=$(machine_folder)
    rm -f "$folder"/{keys,screen}
    mkfifo "$folder"/{keys,screen}
    machine_ssh bash <"$folder/keys" >"$folder/screen" 2>"$folder/shell.log" &
    remember $! machine-shell
    exec {MACHINE_KEYS}>"$folder/keys" {MACHINE_SCREEN}<"$folder/screen"
}

# in_machine COMMAND...: what it prints, on both ways, and its exit status.
in_machine() {
    local text status
    printf '%q ' "$@" >&"$MACHINE_KEYS"
    printf '</dev/null 2>&1; printf "\\0%%d\\n" $?\n' >&"$MACHINE_KEYS"
    if ! { IFS= read -r -d '' -u "$MACHINE_SCREEN" text && read -r -u "$MACHINE_SCREEN" status; }; then
        echo "the emulated machine has hung up" >&2
        return 255
    fi
    printf '%s' "$text"
    return "$status"
}
