# shellcheck shell=bash
# The emulated machine's kernel and first file system: Debian's generic kernel, busybox, the modules that NICs need.

MACHINE_CACHE=${MACHINE_CACHE:-$LAB_HOME/target/machine}
MACHINE_MODULES="vfio vfio_pci vfio_iommu_type1 uio uio_pci_generic virtio_net virtio_pci virtio_rng e1000e igb vmxnet3
    9p 9pnet_virtio overlay tun veth bridge autofs4"

need_machine_packages() {
    local missing=() package
    for package in qemu-system-x86 busybox-static cpio kmod systemd openssh-server openssh-client; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    ((${#missing[@]} == 0)) || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# build_machine: vmlinuz and initrd in MACHINE_CACHE, made once for each kernel version and each init.
build_machine() {
    local package kernel tree modules
    need_machine_packages
    mkdir -p "$MACHINE_CACHE"
    package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
    kernel=$MACHINE_CACHE/$package
    if [[ ! -d $kernel ]]; then
        (cd "$MACHINE_CACHE" && apt-get download -qq "$package" && dpkg -x "$package"_*.deb "$kernel.new" && rm -f "$package"_*.deb)
        mv "$kernel.new" "$kernel"
    fi
    cp "$kernel"/boot/vmlinuz-* "$MACHINE_CACHE/vmlinuz"
    [[ $MACHINE_CACHE/initrd -nt $LAB_HOME/scripts/machine.d/init && $MACHINE_CACHE/initrd -nt $LAB_HOME/scripts/machine.d/build.sh ]] && return
    tree=$(mktemp -d)
    modules=$(basename "$kernel"/lib/modules/*)
    mkdir -p "$tree"/{bin,sbin,proc,sys,dev,lower,upper,root} "$tree/lib/modules/$modules"
    copy_modules "$kernel/lib/modules/$modules" "$tree/lib/modules/$modules"
    depmod -b "$tree" "$modules"
    cp /usr/bin/busybox "$tree/bin/busybox"
    install -m 755 "$LAB_HOME/scripts/machine.d/init" "$tree/init"
    (cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$MACHINE_CACHE/initrd.new"
    mv "$MACHINE_CACHE/initrd.new" "$MACHINE_CACHE/initrd"
    rm -rf "$tree"
}

# copy_modules FROM TO: the wanted modules and all they depend on.
copy_modules() {
    local from=$1 to=$2 name file
    cp "$from"/modules.{builtin,order,builtin.modinfo} "$to/"
    depmod -b "${from%/lib/modules/*}" "$(basename "$from")"
    for name in $MACHINE_MODULES; do
        modprobe -d "${from%/lib/modules/*}" -S "$(basename "$from")" --show-depends "$name" 2>/dev/null | awk '$1 == "insmod" { print $2 }'
    done | sort -u | while read -r file; do
        install -D -m 644 "$file" "$to/${file#"$from"/}"
    done
}
