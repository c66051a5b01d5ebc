//! `lvsctl top` on a real terminal of 80 × 24, by tmux.

use std::process::Command;

use lvs_core::ipvs::real_server::RealServerId;
use lvs_core::single_writer::SingleWriter;
use lvs_core::verdict::DropReason;

use super::*;

/// A tmux server of its own that goes with the test.
struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    fn start(directory: &Path, command: &str) -> Self {
        let terminal = Self {
            socket: directory.join("tmux"),
        };
        terminal.tmux(&["new-session", "-d", "-x", "80", "-y", "24", command]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        let output = command
            .args(["-f", "/dev/null", "-S"])
            .arg(&self.socket)
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// The screen, once it holds all of `wanted`.
    fn shows(&self, wanted: &[&str]) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let screen = self.tmux(&["capture-pane", "-p"]);
            if wanted.iter().all(|text| screen.contains(text)) {
                return screen;
            }
            assert!(Instant::now() < end, "{wanted:?} is not on the screen: {screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn keys(&self, keys: &str) {
        self.tmux(&["send-keys", "-l", keys]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        let _ = command.arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

fn testbed() -> Testbed {
    let testbed = Testbed::new(AdminLimits::default());
    for command in [
        "service add tcp:192.0.2.10:80 --scheduler wrr",
        "server add tcp:192.0.2.10:80 198.51.100.1:80 --mode nat",
        "server add tcp:192.0.2.10:80 198.51.100.2:80 --mode nat",
    ] {
        testbed.printed(command);
    }
    let counters = &testbed.workers[0].counters;
    counters.server(RealServerId(1)).active.add(42);
    counters.conns_ipv4.add(42);
    counters.drop_packet(DropReason::NoRoute);
    testbed
}

#[test]
fn the_screen_shows_workers_services_servers_and_drops_and_follows_the_keys() {
    let testbed = testbed();
    let directory = TempDir::new().unwrap();
    let (program, socket) = (tools::lvsctl().display(), testbed.socket.display());
    let command = format!("{program} --socket {socket} top --interval 0.2");
    let terminal = Terminal::start(directory.path(), &command);
    let screen = terminal.shows(&[
        "1 services, 2 servers, 42 of 8.2k connections",
        "[1:Workers]",
        "Cyc/Pkt",
    ]);
    assert_eq!(screen.trim_end().lines().count(), 24, "{screen}");
    let last = screen.trim_end().lines().last().unwrap();
    assert!(last.starts_with("q quit"), "{screen}");

    terminal.keys("2");
    terminal.shows(&["[2:Services]", "tcp:192.0.2.10:80"]);
    terminal.keys("3");
    let screen = terminal.shows(&["[3:Servers]", "198.51.100.1:80", "198.51.100.2:80"]);
    let row = screen.lines().find(|line| line.starts_with("198.51.100.2:80")).unwrap();
    let words: Vec<_> = row.split_whitespace().collect();
    assert_eq!(
        words,
        ["198.51.100.2:80", "tcp:192.0.2.10:80", "Masq", "1", "42", "0", "0"]
    );

    // By active connections, the largest first.
    terminal.keys("sssss");
    let screen = terminal.shows(&["5:Devices  by Active"]);
    let at = |server: &str| screen.find(server).unwrap();
    assert!(at("198.51.100.2:80") < at("198.51.100.1:80"), "{screen}");

    terminal.keys("/100.1");
    terminal.shows(&["filter: 100.1_"]);
    terminal.tmux(&["send-keys", "Enter"]);
    let screen = terminal.shows(&["filter: 100.1  q quit"]);
    assert!(!screen.contains("198.51.100.2:80"), "{screen}");

    // What changes is seen.
    terminal.keys("/");
    terminal.tmux(&["send-keys", "Escape"]);
    // A key that follows at once would be read as one with Alt.
    terminal.shows(&["198.51.100.1:80", "198.51.100.2:80"]);
    terminal.keys("4");
    terminal.shows(&["[4:Drops]", "no_route"]);
    testbed.workers[1].counters.drop_packet(DropReason::Truncated);
    terminal.shows(&["truncated"]);
}

#[test]
fn status_says_what_is_wrong_and_where_to_look() {
    let testbed = testbed();
    let text = testbed.printed("status");
    assert_contains_all(
        &text,
        &[
            "ok     services     1, each with a server that takes connections\n",
            "ok     servers      2, 0 with weight 0, 0 at their upper threshold\n",
            "ok     connections  IPv4 42 of 4096, IPv6 0 of 4096\n",
            "ok     drops        none\n",
            "ok     sync         none\n",
        ],
    );
    assert!(!text.contains("WRONG"), "{text}");

    for command in [
        "server edit tcp:192.0.2.10:80 198.51.100.1:80 --weight 0",
        "server edit tcp:192.0.2.10:80 198.51.100.2:80 --upper-threshold 42",
    ] {
        testbed.printed(command);
    }
    testbed.workers[1].counters.conns_ipv4.add(4_000);
    let counting = std::thread::spawn({
        let (worker, end) = (
            Arc::clone(&testbed.workers[0]),
            Instant::now() + Duration::from_secs(60),
        );
        let stop = Arc::clone(&testbed.workers[1]);
        move || {
            while Instant::now() < end && stop.counters.bursts.get() == 0 {
                worker.counters.drop_packet(DropReason::NoRoute);
                worker.counters.busy_cycles.add(95);
                worker.counters.idle_cycles.add(5);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let text = testbed.printed("status");
    testbed.workers[1].counters.bursts.add(1);
    counting.join().unwrap();
    assert_contains_all(
        &text,
        &[
            "WRONG  services     1, no server takes connections of tcp:192.0.2.10:80\n                    -> lvsctl list",
            "ok     servers      2, 1 with weight 0, 1 at their upper threshold\n",
            "WRONG  connections  IPv4 4042 of 4096, IPv6 0 of 4096\n",
            "WRONG  drops        no_route ",
            "WRONG  workers      busy 95 %, 0 %\n",
        ],
    );
}

#[test]
fn once_prints_every_table_and_without_a_terminal_it_is_needed() {
    let testbed = testbed();
    let text = testbed.printed("top --once --interval 0.1");
    assert_contains_all(
        &text,
        &[
            "Workers\nWorker",
            "Services\nService",
            "Servers\nServer",
            "Drops\nReason",
            "no_route",
        ],
    );
    let refused = testbed.lvsctl("top");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--once"));
}
