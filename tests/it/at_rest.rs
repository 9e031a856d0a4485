//! What a server that has nothing to do keeps in memory.

use crate::support::{Server, eventually, proc};
use serde_json::json;

/// The pages of files and of its own that a process has in memory, in KiB.
fn resident(server: &Server) -> u64 {
    proc::resident_kib(server.pid())
}

#[tokio::test]
async fn what_only_the_start_needed_is_given_back() {
    let server = Server::start(&["--agent", "echo"]);
    let (mut rest, mut times) = (0, 0);
    // Not while it is at it. On a busy machine it may be done before this is seen: so the most that it has had is compared.
    eventually("pages given back", || {
        let now = resident(&server);
        times = if now == rest { times + 1 } else { 0 };
        rest = now;
        (rest * 10 < proc::peak_kib(server.pid()) * 9 && times > 20).then_some(())
    })
    .await;
    let peak = proc::peak_kib(server.pid());
    // What is needed again is there again.
    let answer = server.advance(&json!({"input": "hello", "session_id": "s", "message_id": "m", "state": null})).await;
    assert_eq!((answer.status, &answer.json()["text"]), (200, &json!("hello")), "{rest} of {peak} KiB");
    assert!(resident(&server) > rest);
}
