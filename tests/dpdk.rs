//! The DPDK module on software devices, without hugepages or NICs. Each test runs in its own process.

use std::sync::mpsc;

use lvs_core::frame::Frame;
use lvs_core::l3::DeviceId;
use lvs_test_support::dpdk::{device_settings, eal_settings, open, start_eal};
use lvs_test_support::process::in_own_process;
use lvs_test_support::waits::wait_until;
use lvsd::dpdk::device::{Device, DeviceSettings, Queues};
use lvsd::dpdk::{Burst, Clock, Eal, EalError, Mbuf, Mempool, PoolSettings, lcore, memory, xstats};

fn pool(eal: &Eal) -> Mempool {
    lvs_test_support::dpdk::pool(eal, 4_095)
}

fn frame(pool: &Mempool, content: &[u8]) -> Mbuf {
    let mut mbuf = pool.alloc().unwrap();
    assert!(mbuf.append(content.len()));
    mbuf.bytes_mut().copy_from_slice(content);
    mbuf
}

#[test]
fn frames_come_back_from_a_ring_device_and_none_is_lost() {
    in_own_process("frames_come_back_from_a_ring_device_and_none_is_lost", || {
        let eal = start_eal(1);
        let pool = pool(&eal);
        let before = pool.in_use();
        let (device, Queues { mut rx, mut tx }) = open(&eal, pool, 0, "net_ring0");
        let (rx, tx) = (&mut rx[0], &mut tx[0]);
        let mut burst = Burst::new();
        for number in 0..20u8 {
            burst.push(frame(&pool, &[number; 60])).unwrap();
        }
        let sent = tx.transmit(&mut burst);
        assert_eq!((sent.packets, sent.bytes, sent.refused), (20, 20 * 60, 0));
        assert!(burst.is_empty(), "transmitting consumes");
        rx.receive(&mut burst);
        assert_eq!(burst.len(), 20);
        for (number, mbuf) in burst.as_slice().iter().enumerate() {
            assert_eq!(mbuf.bytes(), [number as u8; 60]);
        }
        assert_eq!(pool.in_use(), before + 20);
        drop(burst);
        assert_eq!(pool.in_use(), before, "a dropped burst frees what is in it");
        assert_eq!(device.stats().rx_packets, 20);
        assert!(
            xstats::read(&device)
                .iter()
                .any(|stat| stat.name == "tx_good_packets" && stat.value == 20)
        );
    });
}

#[test]
fn frames_that_a_full_device_refuses_are_counted_and_freed() {
    in_own_process("frames_that_a_full_device_refuses_are_counted_and_freed", || {
        let eal = start_eal(1);
        let pool = pool(&eal);
        let (_device, Queues { rx: _rx, mut tx }) = open(&eal, pool, 0, "net_ring0");
        let (mut taken, mut refused) = (0, 0);
        let mut burst = Burst::new();
        for _ in 0..40 {
            while burst.push(frame(&pool, &[7; 60])).is_ok() {}
            let sent = tx[0].transmit(&mut burst);
            assert_eq!(sent.bytes, sent.packets * 60);
            assert!(burst.is_empty());
            taken += sent.packets;
            refused += sent.refused;
        }
        assert_eq!(taken + refused, 40 * 32);
        assert!(refused > 0, "the ring of 1023 slots overflows");
        assert_eq!(u64::from(pool.in_use()), taken, "exactly what the ring holds is in use");
    });
}

#[test]
fn a_drained_burst_frees_the_buffers_that_nobody_took() {
    in_own_process("a_drained_burst_frees_the_buffers_that_nobody_took", || {
        let eal = start_eal(1);
        let pool = pool(&eal);
        let mut burst = Burst::new();
        while burst.push(frame(&pool, &[1; 64])).is_ok() {}
        assert!(burst.is_full());
        assert_eq!(pool.in_use(), 32);
        let kept: Vec<Mbuf> = burst.drain().take(3).collect();
        assert!(burst.is_empty());
        assert_eq!(pool.in_use(), 3);
        drop(kept);
        assert_eq!((pool.in_use(), pool.available()), (0, 4_095));
    });
}

#[test]
fn an_mbuf_grows_and_shrinks_at_both_ends_within_its_capacity() {
    in_own_process("an_mbuf_grows_and_shrinks_at_both_ends_within_its_capacity", || {
        let eal = start_eal(1);
        let pool = pool(&eal);
        let mut mbuf = frame(&pool, b"payload");
        assert!(mbuf.prepend(128) && !mbuf.prepend(1), "the headroom is 128 bytes");
        assert_eq!(mbuf.len(), 135);
        assert!(mbuf.trim_front(128) && !mbuf.trim_front(8));
        assert_eq!(mbuf.bytes(), b"payload");
        assert!(mbuf.append(2_041) && !mbuf.append(1), "the frame space is 2048 bytes");
        mbuf.truncate(3);
        mbuf.truncate(9);
        assert_eq!(mbuf.bytes(), b"pay");
        assert!(mbuf.is_whole());
        let mut empty = pool.alloc().unwrap();
        let failed = empty.fill(|_| Err::<usize, _>("no"));
        assert_eq!((failed, empty.len()), (Err("no"), 0));
        let count = empty.fill(|buffer| {
            buffer[..4].copy_from_slice(b"data");
            Ok::<_, ()>(4)
        });
        assert_eq!((count, empty.bytes()), (Ok(4), &b"data"[..]));
    });
}

#[test]
fn an_exhausted_pool_says_so_and_recovers() {
    in_own_process("an_exhausted_pool_says_so_and_recovers", || {
        let eal = start_eal(1);
        let pool = Mempool::create(
            &eal,
            &PoolSettings {
                mbufs: 255,
                cache: 0,
                mtu_max: 1_500,
            },
        )
        .unwrap();
        let all: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!((all.len(), pool.available()), (255, 0));
        drop(all);
        assert!(pool.alloc().is_some());
        let error = Mempool::create(
            &eal,
            &PoolSettings {
                mbufs: 1_000_000,
                ..PoolSettings::default()
            },
        )
        .unwrap_err();
        assert!(error.to_string().contains("memory_mb"), "{error}");
    });
}

#[test]
fn the_configured_mac_address_wins() {
    in_own_process("the_configured_mac_address_wins", || {
        let eal = start_eal(1);
        let pool = pool(&eal);
        let mac = [0x02, 0, 0, 0, 0, 0x17];
        for driver in [
            "net_ring0",
            "net_null0",
            "net_pcap0,tx_pcap=/dev/null,rx_pcap=/dev/null",
        ] {
            // net_pcap cannot read /dev/null; a capture with no packet in it will do.
            let driver = driver.replace("rx_pcap=/dev/null", &format!("rx_pcap={}", empty_capture().display()));
            let (device, _queues) = Device::open(
                &eal,
                &DeviceSettings {
                    mac: Some(mac),
                    ..device_settings(0, &driver)
                },
                pool,
            )
            .unwrap();
            assert_eq!(device.mac(), mac, "{driver}");
            assert!(device.link().up || driver.starts_with("net_pcap"), "{driver}");
        }
    });
}

fn empty_capture() -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("lvsd-empty-{}.pcap", std::process::id()));
    let mut header = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
    header.extend([0; 8]);
    header.extend([0xff, 0xff, 0, 0, 1, 0, 0, 0]);
    std::fs::write(&path, header).unwrap();
    path
}

#[test]
fn a_device_that_is_not_there_is_named_with_a_cure() {
    in_own_process("a_device_that_is_not_there_is_named_with_a_cure", || {
        let eal = start_eal(1);
        let pool = pool(&eal);
        for (driver, expected) in [
            ("0000:99:00.0", "dpdk-devbind.py -b vfio-pci"),
            ("net_nonsense0", "dpkg -l 'librte-net-*'"),
            ("net_af_packet0,iface=nowhere0", "no interface \"nowhere0\""),
            ("net_pcap0,rx_pcap=/nowhere.pcap", "net_pcap0"),
        ] {
            let error = Device::open(&eal, &device_settings(0, driver), pool)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(expected) && error.contains("\"device0\""),
                "{driver}: {error}"
            );
        }
        let error = Device::open(
            &eal,
            &DeviceSettings {
                mtu: 10,
                ..device_settings(0, "net_null0")
            },
            pool,
        )
        .unwrap_err();
        assert!(error.to_string().contains("MTU 10 is outside"), "{error}");
    });
}

#[test]
fn queues_are_limited_to_what_the_device_has() {
    in_own_process("queues_are_limited_to_what_the_device_has", || {
        let eal = start_eal(1);
        let pool = pool(&eal);
        let capture = empty_capture();
        let driver = format!("net_pcap0,rx_pcap={},tx_pcap=/dev/null", capture.display());
        let wanted = DeviceSettings {
            rx_queues: 4,
            tx_queues: 3,
            ..device_settings(5, &driver)
        };
        let (device, Queues { rx, tx }) = Device::open(&eal, &wanted, pool).unwrap();
        assert_eq!((device.rx_queues(), device.tx_queues(), device.rss()), (1, 1, false));
        assert_eq!(
            (rx.len(), tx.len(), rx[0].device(), tx[0].device()),
            (1, 1, DeviceId(5), DeviceId(5))
        );
        let many = DeviceSettings {
            rx_queues: 4,
            tx_queues: 3,
            ..device_settings(0, "net_null0")
        };
        let (device, _queues) = Device::open(&eal, &many, pool).unwrap();
        assert_eq!(
            (device.rx_queues(), device.tx_queues(), device.driver()),
            (4, 3, "net_null")
        );
    });
}

#[test]
fn workers_run_on_their_cpu_and_a_panic_is_reported() {
    in_own_process("workers_run_on_their_cpu_and_a_panic_is_reported", || {
        let settings = eal_settings(2);
        let eal = Eal::start(&settings).unwrap();
        let (sender, receiver) = mpsc::channel();
        let handles: Vec<_> = (0..2)
            .map(|worker| {
                let sender = sender.clone();
                lcore::launch(&eal, worker, move || {
                    sender.send((worker, lvsd::dpdk::eal::available_cpus())).unwrap();
                })
                .unwrap()
            })
            .collect();
        for handle in handles {
            handle.join().unwrap();
        }
        let mut seen: Vec<_> = receiver.try_iter().collect();
        seen.sort();
        let expected: Vec<_> = settings.worker_cpus.iter().map(|&cpu| vec![cpu]).enumerate().collect();
        assert_eq!(seen, expected);
        let panicking = lcore::launch(&eal, 0, || panic!("on purpose")).unwrap();
        assert!(panicking.join().unwrap_err().to_string().contains("worker 0 panicked"));
        let error = lcore::launch(&eal, 2, || {}).unwrap_err().to_string();
        assert!(error.contains("worker 2 has no CPU"), "{error}");
    });
}

#[test]
fn dpdk_starts_once_per_process_and_one_prefix_serves_one_process() {
    in_own_process("dpdk_starts_once_per_process_and_one_prefix_serves_one_process", || {
        let settings = eal_settings(1);
        let _eal = Eal::start(&settings).unwrap();
        assert!(matches!(Eal::start(&settings), Err(EalError::PrefixInUse(prefix)) if prefix == settings.file_prefix));
        let other = lvsd::dpdk::EalSettings {
            file_prefix: format!("{}-b", settings.file_prefix),
            ..settings
        };
        assert!(matches!(Eal::start(&other), Err(EalError::AlreadyStarted)));
    });
}

#[test]
fn the_clock_counts_milliseconds_and_memory_is_zeroed() {
    in_own_process("the_clock_counts_milliseconds_and_memory_is_zeroed", || {
        let eal = start_eal(1);
        let clock = Clock::start(&eal);
        // The test reads this clock between two readings of the kernel's clock, however far apart they are.
        let before = std::time::Instant::now();
        let tick = clock.now();
        let after = std::time::Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let least_ms = after.elapsed().as_millis() as u32;
        let counted_ms = clock.now().since_ms(tick);
        let most_ms = before.elapsed().as_millis() as u32;
        assert!(
            (least_ms - 1..=most_ms + 1).contains(&counted_ms),
            "{counted_ms} ms, and {least_ms} to {most_ms} by the kernel's clock"
        );
        assert!(!eal.hugepages());
        let region = memory::zeroed_region(&eal, 1 << 20, None).unwrap();
        assert_eq!(region.as_ptr().align_offset(4096), 0);
    });
}

#[test]
fn frames_cross_a_veth_pair_by_af_packet() {
    in_own_process("frames_cross_a_veth_pair_by_af_packet", || {
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
            println!("not root: no namespace, nothing to test");
            return;
        }
        for command in [
            "link add left type veth peer name right",
            "link set left up",
            "link set right up",
        ] {
            let status = std::process::Command::new("ip")
                .args(command.split(' '))
                .status()
                .unwrap();
            assert!(status.success(), "ip {command}");
        }
        let eal = start_eal(1);
        let pool = pool(&eal);
        let mac = [0x02, 0, 0, 0, 0, 0x17];
        let wanted = DeviceSettings {
            mac: Some(mac),
            ..device_settings(0, "net_af_packet0,iface=left")
        };
        let (left, mut from) = Device::open(&eal, &wanted, pool).unwrap();
        let (_right, mut to) = open(&eal, pool, 1, "net_af_packet1,iface=right");
        assert_eq!((left.mac(), left.link().up), (mac, true));
        let mut content = [0x5a; 200];
        content[..6].copy_from_slice(&[0x02, 9, 9, 9, 9, 9]);
        let mut burst = Burst::new();
        burst.push(frame(&pool, &content)).unwrap();
        assert_eq!(from.tx[0].transmit(&mut burst).packets, 1);
        let arrived = wait_until(|| {
            to.rx[0].receive(&mut burst);
            burst.as_slice().iter().any(|mbuf| mbuf.bytes() == content)
        });
        assert!(arrived, "promiscuous: a frame to a foreign MAC address arrives");
    });
}
