//! The limits of everything, each with its reason.

/// Frames taken from a queue at once: enough to overlap memory latency, few enough to stay in L1.
pub const BURST_MAX: usize = 32;

/// Workers of one director. Their ids index arrays of fixed size.
pub const WORKERS_MAX: usize = 64;

/// Devices of one director.
pub const DEVICES_MAX: usize = 32;

/// Longest timeout that may be configured, in seconds: 31 days, the limit of ipvsadm and keepalived. The kernel itself
/// allows 99 days.
pub const TIMEOUT_CONFIGURED_MAX_SEC: u32 = 31 * 86_400;

/// Longest time that a timer is armed for, in seconds: a 32-bit millisecond clock can compare 24 days. A longer timeout
/// runs in parts of 20 days.
pub const TIMEOUT_MAX_SEC: u32 = 20 * 86_400;
/// The same in milliseconds.
pub const TIMEOUT_MAX_MS: u32 = TIMEOUT_MAX_SEC * 1_000;

/// Largest weight: the limit of the kernel and ipvsadm, although ipvsadm(8) says 65535.
pub const WEIGHT_MAX: u32 = i32::MAX as u32;

/// Virtual services: slots of per-worker scheduler state are allocated at start.
pub const SERVICES_MAX: usize = 16_384;

/// Real servers of all services, including deleted ones in the trash. Each has a line of counters at every worker.
pub const REAL_SERVERS_MAX: usize = 65_536;

/// How long a worker uses what it last read of the other workers' connections: a fraction of the shortest connection's
/// life, but long enough that their cache lines do not bounce.
pub const LOADS_BEAT_US: u32 = 100;

/// Published loads that a worker reads at once from the others: some 10 µs if all of them changed.
pub const LOADS_READ_MAX: usize = 4_096;

/// How long a worker uses the response times that it last read.
pub const RESPONSES_MERGE_MS: u32 = 100;

/// Longest response time that is measured. A server that takes longer counts as not answering.
pub const RESPONSE_MAX_MS: u32 = 60_000;

/// Servers whose traffic is sampled in one pass of housekeeping: some 10 µs.
pub const SERVERS_SAMPLED_PER_PASS_MAX: usize = 1_024;

/// Local addresses of one service's pool.
pub const LOCAL_ADDRESSES_MAX: usize = 1_024;

/// First local port that FULLNAT uses. The range below belongs to services.
pub const LOCAL_PORT_FIRST: u16 = 1_024;
/// Last local port that FULLNAT uses.
pub const LOCAL_PORT_LAST: u16 = 65_535;

/// How many (local address, port) candidates a new FULLNAT connection tries before it is refused.
pub const LOCAL_PORT_TRIES_MAX: u32 = 256;

/// How many candidates a new FULLNAT connection looks at for one that has rested, before it takes another one.
pub const LOCAL_PORT_REST_TRIES_MAX: u32 = 8;

/// How long a finished connection must have been idle before it gives its local port to another one, in milliseconds:
/// longer than a lost last segment takes to come again.
pub const LOCAL_PORT_IDLE_MIN_MS: u32 = 1_000;

/// How much longer than configured a local port rests, in milliseconds: Linux ends a TIME_WAIT of a minute up to 5 s late,
/// because its timers become the coarser the longer they run (kernel/time/timer.c).
pub const LOCAL_PORT_REST_SLACK_MS: u32 = 6_000;

/// Longest time that local ports may rest, in seconds.
pub const LOCAL_PORT_REST_MAX_SEC: u32 = 3_600;

/// How far at most the initial sequence number that the director chooses lies above the last number of the connection
/// before, as a power of two: far enough that nobody guesses it, and far from the half of all numbers.
pub const ISN_GAP_BITS: u32 = 24;

/// For how many local ports a new FULLNAT connection computes where NICs with RSS bring replies. With 64 workers, the
/// most there are, one port in 64 suits, and one connection in ten million finds none.
pub const RSS_PORT_TRIES_MAX: u32 = 1_024;

/// Packets that wait for one neighbour (kernel: `unres_qlen`, about 100 full frames).
pub const HELD_PER_NEIGHBOUR_MAX: usize = 64;

/// Packets that wait for any neighbour, per worker: bounds the buffers a scan can pin.
pub const HELD_MAX: usize = 512;

/// Bytes of an ICMPv4 error in total (RFC 1812 4.3.2.3, kernel `icmp_send`).
pub const ICMP4_ERROR_MAX: usize = 576;
/// Bytes of an ICMPv6 error in total (RFC 4443 2.4 c).
pub const ICMP6_ERROR_MAX: usize = 1_280;
/// ICMP errors a worker may send per second (kernel `icmp_msgs_per_sec`).
pub const ICMP_ERRORS_PER_SEC: u32 = 1_000;
/// ICMP errors a worker may send at once (kernel `icmp_msgs_burst` is 50).
pub const ICMP_ERRORS_BURST: u32 = 64;

/// TCP resets a worker may send per second. A reset is no longer than the segment that it answers, so nobody gains by
/// asking for one in another's name; a flood of such segments gets at most 34 Mbit/s back, and a million clients that
/// lost their connections at once hear of it within 20 seconds of one worker.
pub const RESETS_PER_SEC: u32 = 50_000;
/// TCP resets a worker may send at once: those of a tenth of a second.
pub const RESETS_BURST: u32 = 5_000;

/// IPv6 extension headers walked before a packet is called malformed.
pub const IPV6_EXTENSIONS_MAX: usize = 8;

/// VLAN tags walked (802.1Q and 802.1ad).
pub const VLAN_TAGS_MAX: usize = 2;

/// Timers of one family served in one pass of the loop, so that a mass expiry never stalls the queue. A pass begins up
/// to [`BURST_MAX`] connections for each queue. Each timer is served two or three times, because it may first move down
/// a level of the wheel.
pub const TIMERS_PER_PASS_MAX: usize = 128;

/// Seconds that a deleted real server is remembered after its last connection
/// (`IP_VS_DEST_TRASH_PERIOD`, net/ip_vs.h).
pub const TRASH_PERIOD_SEC: u32 = 120;

/// Destinations that a worker remembers for lblc and lblcr (the kernel: 16,384 a service): 1.2 MB a worker.
pub const LOCALITIES_MAX: usize = 16_384;
/// Servers of one destination in lblcr.
pub const LOCALITY_SERVERS_MAX: usize = 8;

/// Rules of the classifier. Every packet without a connection is compared with each of them.
pub const MARK_RULES_MAX: usize = 256;
/// Port ranges of one rule of the classifier (iptables' multiport has 15).
pub const MARK_PORT_RANGES_MAX: usize = 32;

/// Shortest time between two checks of an expired persistence template that has connections, in milliseconds
/// (ip_vs_conn.c `ip_vs_conn_expire`: 60 s).
pub const TEMPLATE_EXTENSION_MS: u32 = 60_000;

/// How long a connection lives that an ICMP error began, if no other packet follows, in milliseconds (ip_vs_conn.c
/// `ip_vs_conn_new`: 3 s until the first state is set).
pub const TIMEOUT_STATELESS_MS: u32 = 3_000;

/// In automatic mode the defences begin when less than this fraction (one in so many) of a connection table is free.
pub const DEFENCE_RESERVE_PARTS: usize = 8;
/// Time between two updates of the defences, in milliseconds (ip_vs_ctl.c `DEFENSE_TIMER_PERIOD`: 1 s).
pub const DEFENCE_PERIOD_MS: u32 = 1_000;
/// `drop_entry` scans this fraction (one in so many) of the table each time (ip_vs_conn.c: a 32nd).
pub const DROP_ENTRY_PARTS: usize = 32;
/// Slots of a connection table that `drop_entry` scans in one housekeeping pass, so that it does not stall the queue;
/// `expire_nodest_conn` scans as many.
pub const SWEEP_SLOTS_MAX: usize = 256;

/// Hops (resolved neighbours times the MTUs that routes impose): ids are 16 bits and the last one means none.
pub const HOPS_MAX: usize = 65_535;

/// Fragmented datagrams that a worker reassembles at the same time. A new one replaces the oldest, so that a flood of
/// first fragments cannot keep others out.
pub const DATAGRAMS_MAX: usize = 64;

/// Fragments of one datagram: 64 KiB in fragments of 576 bytes are 119. More would only waste time.
pub const FRAGMENTS_PER_DATAGRAM_MAX: usize = 128;

/// Bytes of IP header and options, or of the headers before the fragment header, that fragments may have.
pub const FRAGMENT_HEADER_MAX: usize = 256;

/// Seconds that an incomplete IPv4 datagram is held (kernel `ipfrag_time`).
pub const REASSEMBLY4_SEC: u32 = 30;
/// Seconds that an incomplete IPv6 datagram is held (RFC 8200 4.5, kernel `nf_conntrack_frag6_timeout`).
pub const REASSEMBLY6_SEC: u32 = 60;

/// Frames that one burst can generate: each of its frames may complete a datagram of the most fragments.
pub const GENERATED_FRAMES_MAX: usize = BURST_MAX * FRAGMENTS_PER_DATAGRAM_MAX;
/// Bytes of these frames: datagrams of 64 KiB, with the headers of their fragments.
pub const GENERATED_BYTES_MAX: usize = BURST_MAX * 72 * 1_024;

/// Range of the MSS limit of a service: from the kernel's smallest MSS (`TCP_MIN_MSS`) to the longest packet.
pub const MSS_MAX_RANGE: std::ops::RangeInclusive<u16> = 88..=65_495;

/// Datagrams of a UDP connection that carry the client's address (DPVS `uoa_max_trail`).
pub const UOA_DATAGRAMS_MAX: u8 = 3;

/// Real servers whose path MTU a worker remembers, learned from ICMP errors about tunnels.
pub const PATH_MTUS_MAX: usize = 256;
/// Seconds that a learned path MTU is valid (kernel `ip_rt_mtu_expires`).
pub const PATH_MTU_SEC: u32 = 600;
/// Smallest path MTU that an ICMP error can teach (kernel `ip_rt_min_pmtu`).
pub const PATH_MTU_MIN: u16 = 552;

/// Connections that wait in a worker to be synced out: a burst in which every packet's connection and template are due,
/// and two housekeeping passes of expiring templates.
pub const SYNC_OUTBOX_MAX: usize = 2 * BURST_MAX + 4 * TIMERS_PER_PASS_MAX;

/// How long no packet must have passed before an authenticated entry may change a connection that packets made or used
/// here, in milliseconds: longer than a client waits between two tries, shorter than the connection of a client that comes
/// back with the same port.
pub const SYNC_LOCAL_QUIET_MS: u32 = 10_000;

/// Slots of a connection table that a bulk sync reads before it looks again whether there is space for as many connections.
pub const SYNC_BULK_STEP_SLOTS: usize = 32;
/// Such steps of one slice: 2,048 slots, which take a worker some ten microseconds.
pub const SYNC_BULK_STEPS_MAX: usize = 64;
/// Connections a second that a bulk sync sends at most by default: a million within 7 seconds, in 45 Mbit/s.
pub const SYNC_BULK_RATE_DEFAULT: u32 = 150_000;
/// Range of that rate: a slice of 512 connections for every other millisecond and less; 0 for no bulk sync.
pub const SYNC_BULK_RATE_RANGE: std::ops::RangeInclusive<u64> = 0..=200_000;
