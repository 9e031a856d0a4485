//! A network of the test's own, so that `0.0.0.0` and port 8080 are free and nobody else can reach them.

use super::stub::python;
use std::process::{Command, Stdio};

/// Says to the test binary that it runs in a namespace already.
const WITHIN: &str = "TURNHOST_TEST_NAMESPACE";

/// Brings the loopback interface up; `ip` is not on every machine.
const LOOPBACK_UP: &str = "import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 1))";

/// Runs `body` on a thread whose network is new: what it connects to, and what the processes that it starts listen on,
/// is nobody else's. That takes root; any other user's test binary is started once more, in a user namespace where the
/// user is root. `test` is the full name of the calling test.
pub fn in_own_network(test: &str, body: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os(WITHIN).is_none(), "not root in a user namespace");
        let own = std::env::current_exe().unwrap();
        let mut again = Command::new("unshare");
        again.arg("-r").arg(own).args(["--exact", test, "--nocapture"]).env(WITHIN, "1").stdin(Stdio::null());
        assert!(again.status().expect("unshare of util-linux").success(), "{test} failed in its namespace");
        return;
    }
    let thread = std::thread::spawn(move || {
        leave_the_network();
        let up = Command::new(python()).args(["-c", LOOPBACK_UP]).status().unwrap();
        assert!(up.success(), "the loopback interface cannot be brought up");
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[expect(unsafe_code, reason = "nix has a safe form only with a feature that would be built for the tests alone")]
fn leave_the_network() {
    // Safety: no memory is touched; only this thread's view of the network changes.
    let left = unsafe { nix::libc::unshare(nix::libc::CLONE_NEWNET) };
    assert_eq!(left, 0, "no network of the test's own: {}", std::io::Error::last_os_error());
}

/// The addresses that are listened on in this thread's network, as `/proc` writes them: `00000000:1F90`.
pub fn listening() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[3] == "0A").map(|row| row[1].to_owned()).collect()
}
