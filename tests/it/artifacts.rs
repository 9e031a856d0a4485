//! Files that a request leaves for its caller: RuntimeUse sections 12 and 17.6, with a place to upload to that can be bad.

use crate::support::files::FileServer;
use crate::support::{Server, WsClient, eventually, proc};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes the files that its prompt names, `{"path": "content", …}`, and closes them.
const WRITER: &str = "
import json
async def run(invocation, sender):
    for path, content in json.loads(invocation.user_prompt).items():
        with open(path, 'w') as file:
            file.write(content)
    return {'type': 'text', 'text': 'written'}
";

/// Announced files are uploaded to `treatment`; everything up to the terminal comes back, with the time of each frame.
async fn with_uploads(client: &mut WsClient, files: &FileServer, treatment: &str) -> Vec<(Instant, Value)> {
    let mut frames = Vec::new();
    loop {
        let frame = client.next().await.expect("a frame");
        let kind = frame["message_type"].as_str().unwrap().to_owned();
        if kind == "artifact_upload_request_message" {
            client.send(&answer(files, treatment, &frame)).await;
        }
        frames.push((Instant::now(), frame));
        if ["result_message", "error_message", "command_execution_result_message"].contains(&kind.as_str()) {
            return frames;
        }
    }
}

/// The next upload request; the handler may say something before it.
async fn next_request(client: &mut WsClient) -> Value {
    loop {
        let frame = client.next().await.expect("a frame");
        match frame["message_type"].as_str().unwrap() {
            "artifact_upload_request_message" => return frame,
            "command_output_message" => {}
            _ => panic!("no request: {frame}"),
        }
    }
}

fn answer(files: &FileServer, treatment: &str, request: &Value) -> Value {
    let path = request["filepath"].as_str().unwrap();
    json!({"message_type": "artifact_upload_response_message", "filename": request["filename"], "filepath": path,
           "presigned_url": files.url(&format!("{treatment}{path}?sig=1")), "content_type": "text/x-test"})
}

fn announced(frames: &[(Instant, Value)]) -> Vec<String> {
    let requests = frames.iter().filter(|(_, frame)| frame["message_type"] == "artifact_upload_request_message");
    let mut paths: Vec<_> = requests.map(|(_, frame)| frame["filepath"].as_str().unwrap().to_owned()).collect();
    paths.sort();
    paths
}

/// Uploaded paths and contents, sorted.
fn uploaded(files: &FileServer) -> Vec<(String, String)> {
    let text = |(path, body): (String, Vec<u8>)| {
        (format!("/{}", path.split('?').next().unwrap()), String::from_utf8(body).unwrap())
    };
    let mut all: Vec<_> = files.uploads().into_iter().map(text).collect();
    all.sort();
    all
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

async fn execute(client: &mut WsClient, command: &str, directories: &[String], more: Value) {
    let mut message = json!({"message_type": "command_execution_message", "commands": [{"command": command}],
                             "artifacts_dirs": directories});
    for (name, value) in more.as_object().unwrap() {
        message[name] = value.clone();
    }
    client.send(&message).await;
}

struct Place {
    folder: tempfile::TempDir,
    files: FileServer,
}

impl Place {
    async fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), files: FileServer::start().await }
    }

    fn path(&self, name: &str) -> String {
        path(&self.folder.path().canonicalize().unwrap(), name)
    }
}

#[tokio::test]
async fn a_file_is_announced_and_uploaded_before_the_terminal() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/").await;
    let dir = place.path("out");
    let command = format!("echo one > {dir}/a.txt; mkdir {dir}/sub; echo two > {dir}/sub/a.txt; touch {dir}/empty");
    execute(&mut client, &command, std::slice::from_ref(&dir), json!({"request_id": "r1"})).await;
    let frames = with_uploads(&mut client, &place.files, "files").await;
    let (first, second) = (format!("{dir}/a.txt"), format!("{dir}/sub/a.txt"));
    assert_eq!(announced(&frames), [first.clone(), second.clone()], "the same name twice, no empty file");
    let request = &frames.iter().find(|(_, frame)| frame["filepath"] == first.as_str()).unwrap().1;
    assert_eq!(
        *request,
        json!({"message_type": "artifact_upload_request_message", "filename": "a.txt", "filepath": first, "size": 4,
               "request_id": "r1"})
    );
    let terminal = &frames.last().unwrap().1;
    assert_eq!((&terminal["results"][0]["exit_code"], terminal.get("artifact_failures")), (&json!(0), None));
    // All of it was there when the terminal came.
    assert_eq!(uploaded(&place.files), [(first, "one\n".to_owned()), (second, "two\n".to_owned())]);
    let put = place.files.asked().into_iter().find(|asked| asked.method == "PUT").unwrap();
    assert_eq!((put.headers["content-type"].as_str(), put.headers["content-length"].as_str()), ("text/x-test", "4"));
    assert!(!put.headers.contains_key("transfer-encoding") && put.path.ends_with("?sig=1"), "{put:?}");
    // Nothing new: the next request waits for nothing, and announces nothing again.
    let began = Instant::now();
    execute(&mut client, "true", &[dir], json!({})).await;
    assert_eq!(announced(&with_uploads(&mut client, &place.files, "files").await).len(), 0);
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_failed_upload_is_told_once_and_ends_nothing() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/").await;
    for (treatment, puts, failure) in
        [("forbidden", 1, Some("PUT answered 403 Forbidden")), ("twice", 3, None), ("slow", 1, None)]
    {
        let dir = place.path(treatment);
        let file = format!("{dir}/x");
        client.query_with(&format!("@write {file} content"), json!({"artifacts_dirs": [dir]})).await;
        let frames = with_uploads(&mut client, &place.files, treatment).await;
        assert_eq!(announced(&frames), std::slice::from_ref(&file), "one request however often it is tried");
        let terminal = &frames.last().unwrap().1;
        assert_eq!(terminal["message_type"], "result_message");
        let failures = failure.map(|error| json!([{"filepath": file, "error": error}]));
        assert_eq!(terminal.get("artifact_failures"), failures.as_ref());
        let tried = place.files.asked().iter().filter(|a| a.path.starts_with(&format!("/{treatment}/"))).count();
        assert_eq!(tried, puts, "{treatment}");
    }
    // A place that cannot be reached at all.
    let dir = place.path("unreachable");
    client.query_with(&format!("@write {dir}/x content"), json!({"artifacts_dirs": [dir]})).await;
    let request = next_request(&mut client).await;
    let mut answer = answer(&place.files, "files", &request);
    answer["presigned_url"] = json!("http://127.0.0.1:1/x?sig=hidden-signature");
    client.send(&answer).await;
    let terminal = client.terminal().await;
    assert_eq!(terminal["message_type"], "result_message");
    let error = terminal["artifact_failures"][0]["error"].as_str().unwrap();
    assert!(!error.contains("hidden-signature"), "{error}");
}

/// A client that has no way to answer: the request goes on after its bound.
#[tokio::test]
async fn an_unanswered_request_holds_the_terminal_for_a_while_only() {
    let (server, place) =
        (Server::start(&["--agent", "echo", "--artifact-answer-timeout", "700ms"]), Place::new().await);
    let mut client = server.connect("/").await;
    let dir = place.path("out");
    let began = Instant::now();
    client.query_with(&format!("@write {dir}/x content"), json!({"artifacts_dirs": [dir]})).await;
    next_request(&mut client).await;
    let terminal = client.terminal().await;
    assert!(began.elapsed() >= Duration::from_millis(650) && began.elapsed() < Duration::from_secs(4));
    assert_eq!(terminal["data"]["type"], "text");
    assert_eq!(terminal["artifact_failures"][0]["filepath"], format!("{dir}/x"));
    // Nor does it stall the end of the session.
    let began = Instant::now();
    client.send(&json!({"message_type": "end_session_message"})).await;
    let mut last = client.next().await.unwrap();
    while last["message_type"] == "artifact_upload_request_message" {
        last = client.next().await.unwrap();
    }
    assert_eq!(last["message_type"], "end_session_confirm_message");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn only_what_was_announced_is_uploaded() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/").await;
    let dir = place.path("out");
    let command = format!("echo mine > {dir}/x; ln -s /etc/passwd {dir}/link; ln -s / {dir}/root");
    execute(&mut client, &command, std::slice::from_ref(&dir), json!({"extensions": ["notices"]})).await;
    let request = next_request(&mut client).await;
    assert_eq!(request["filepath"], format!("{dir}/x"));
    for wrong in ["/etc/passwd", &format!("{dir}/../../etc/passwd"), &format!("{dir}/link"), &format!("{dir}/y")] {
        let mut answer = answer(&place.files, "files", &request);
        answer["filepath"] = json!(wrong);
        client.send(&answer).await;
        let notice = client.next().await.unwrap();
        assert_eq!(
            (&notice["message_type"], &notice["field"]),
            (&json!("notice_message"), &json!("filepath")),
            "{wrong}"
        );
    }
    client.send(&answer(&place.files, "files", &request)).await;
    client.terminal().await;
    assert_eq!(uploaded(&place.files), [(format!("{dir}/x"), "mine\n".to_owned())]);
}

/// A file that its writer still has open is not handed out half-written.
#[tokio::test]
async fn a_growing_file_gets_time() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/").await;
    let dir = place.path("out");
    let command = format!(
        "(exec 3> {dir}/grows; for n in 1 2 3 4; do echo $n >&3; sleep 0.5; done) >/dev/null 2>&1 </dev/null & sleep 0.3"
    );
    execute(&mut client, &command, std::slice::from_ref(&dir), json!({})).await;
    let frames = with_uploads(&mut client, &place.files, "files").await;
    assert_eq!(announced(&frames), [format!("{dir}/grows")], "once, after the last line");
    assert_eq!(uploaded(&place.files), [(format!("{dir}/grows"), "1\n2\n3\n4\n".to_owned())]);
}

#[tokio::test]
async fn rules_and_trees() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/").await;
    let dir = place.path("out");
    let make = format!(
        "mkdir -p {dir}/node_modules/a {dir}/.venv {dir}/src/dist; \
         for f in node_modules/a/x .venv/y src/dist/z keep.txt .env ..dots.txt src/code.rs a.swp b~; do echo $f > {dir}/$f; done"
    );
    execute(&mut client, &make, std::slice::from_ref(&dir), json!({})).await;
    let frames = with_uploads(&mut client, &place.files, "files").await;
    let expected: Vec<String> =
        ["..dots.txt", ".env", "keep.txt", "src/code.rs"].iter().map(|name| format!("{dir}/{name}")).collect();
    assert_eq!(announced(&frames), expected);
    // The directory's own file wins over the list, and the request's content over both.
    let own = place.path("own");
    let make = format!(
        "mkdir -p {own}/dist; echo '*.log' > {own}/.artifactignore; for f in dist/x a.log b.txt; do echo 1 > {own}/$f; done"
    );
    execute(&mut client, &make, std::slice::from_ref(&own), json!({})).await;
    let frames = with_uploads(&mut client, &place.files, "files").await;
    assert_eq!(announced(&frames), [format!("{own}/b.txt"), format!("{own}/dist/x")]);
    let given = place.path("given");
    let make = format!(
        "mkdir -p {given}; echo '*.log' > {given}/.artifactignore; for f in a.log b.txt; do echo 1 > {given}/$f; done"
    );
    execute(&mut client, &make, std::slice::from_ref(&given), json!({"artifacts_ignore_content": "b.*"})).await;
    let frames = with_uploads(&mut client, &place.files, "files").await;
    assert_eq!(announced(&frames), [format!("{given}/a.log")]);
}

/// An ignored directory is neither walked nor watched.
#[tokio::test]
async fn an_ignored_tree_costs_nothing() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/").await;
    // What the first request costs by itself is not the tree's.
    let (small, dir) = (place.path("small"), place.path("large"));
    execute(&mut client, "true", &[small], json!({})).await;
    client.terminal().await;
    for n in 0..400 {
        let folder = format!("{dir}/node_modules/p{n}");
        std::fs::create_dir_all(&folder).unwrap();
        (0..50).for_each(|m| std::fs::write(format!("{folder}/f{m}"), "x").unwrap());
    }
    let before = proc::private_kib(server.pid());
    execute(&mut client, &format!("echo 1 > {dir}/a"), std::slice::from_ref(&dir), json!({})).await;
    let frames = with_uploads(&mut client, &place.files, "files").await;
    assert_eq!(announced(&frames), [format!("{dir}/a")]);
    let grown = proc::private_kib(server.pid()).saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    let watches = watches(server.pid());
    assert!(watches <= 4, "{watches} watches");
}

/// How many directories a process watches.
fn watches(pid: u32) -> usize {
    let infos = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten();
    let lines = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        text.lines().filter(|line| line.starts_with("inotify ")).count()
    };
    infos.map(lines).sum()
}

/// What was written in the last moment is handed out at once; what was not written costs no time.
#[tokio::test]
async fn the_end_of_a_request_is_prompt() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/").await;
    let dir = place.path("out");
    let mut plain = Vec::new();
    let mut watched = Vec::new();
    let mut announced_after = Vec::new();
    for round in 0..15 {
        let began = Instant::now();
        client.query("hi").await;
        client.terminal().await;
        plain.push(began.elapsed());
        let began = Instant::now();
        client.query_with("hi", json!({"artifacts_dirs": [dir]})).await;
        client.terminal().await;
        watched.push(began.elapsed());
        let prompt = format!("@write {dir}/f{round} content");
        let began = Instant::now();
        client.query_with(&prompt, json!({"artifacts_dirs": [dir]})).await;
        let frames = with_uploads(&mut client, &place.files, "files").await;
        assert_eq!(announced(&frames).len(), 1);
        announced_after.push(frames[0].0.duration_since(began));
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (plain, watched, announced) = (median(plain), median(watched), median(announced_after));
    assert!(watched < plain + Duration::from_millis(50), "{watched:?} against {plain:?}");
    assert!(announced < Duration::from_millis(100), "{announced:?}");
}

#[tokio::test]
async fn a_cancel_does_not_wait_for_files() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/").await;
    let dir = place.path("out");
    execute(&mut client, &format!("echo 1 > {dir}/a; echo begun; sleep 600"), &[dir], json!({})).await;
    while client.next().await.unwrap()["message_type"] != "command_output_message" {}
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await;
    assert_eq!(client.terminal().await["error"], "Request cancelled");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// A file that appears between two requests, and the last one before the end of the session.
#[tokio::test]
async fn between_requests_and_at_the_end_of_a_session() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/").await;
    let dir = place.path("out");
    execute(&mut client, "true", std::slice::from_ref(&dir), json!({})).await;
    client.terminal().await;
    std::fs::write(format!("{dir}/between"), "between").unwrap();
    let request = next_request(&mut client).await;
    assert_eq!(request["filepath"], format!("{dir}/between"));
    client.send(&answer(&place.files, "files", &request)).await;
    eventually("the upload", || (uploaded(&place.files).len() == 1).then_some(())).await;
    std::fs::write(format!("{dir}/last"), "last").unwrap();
    let began = Instant::now();
    client.send(&json!({"message_type": "end_session_message"})).await;
    let request = next_request(&mut client).await;
    assert_eq!(request["filepath"], format!("{dir}/last"));
    client.send(&answer(&place.files, "files", &request)).await;
    assert_eq!(client.next().await.unwrap(), json!({"message_type": "end_session_confirm_message"}));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(uploaded(&place.files).len(), 2);
    assert_eq!(client.close_code().await, Some(1000));
}

/// Two hundred sessions, each with two directories, a handler that writes into both, and a command before it that writes
/// a third file: six hundred uploads, none twice, none half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_comes_twice() {
    const SESSIONS: usize = 200;
    let place = Place::new().await;
    let module = place.path("writer.py");
    std::fs::write(&module, WRITER).unwrap();
    let server = Server::start(&["--handler", &module]);
    let content = |session: usize, n: usize| format!("{session} {n} ").repeat(2000 + 10 * session);
    let mut sessions = Vec::new();
    for session in 0..SESSIONS {
        let [a, b] = ["a", "b"].map(|name| place.path(&format!("s{session}/{name}")));
        let files = place.files.clone();
        let mut client = server.connect("/").await;
        sessions.push(tokio::spawn(async move {
            let written = json!({format!("{a}/one"): content(session, 1), format!("{b}/two"): content(session, 2)});
            let before = format!("printf '{session} %s ' 3 > {b}/three");
            let more = json!({"artifacts_dirs": [a, b], "pre_agent_invocation_commands": [{"command": before}]});
            client.query_with(&written.to_string(), more).await;
            let frames = with_uploads(&mut client, &files, "files").await;
            let terminal = &frames.last().unwrap().1;
            assert_eq!(terminal["data"]["text"], "written", "{terminal}");
            assert_eq!(terminal.get("artifact_failures"), None, "{terminal}");
            assert_eq!(announced(&frames).len(), 3, "{frames:?}");
        }));
    }
    for session in sessions {
        session.await.unwrap();
    }
    let uploads = uploaded(&place.files);
    let mut expected = Vec::new();
    for session in 0..SESSIONS {
        expected.push((place.path(&format!("s{session}/a/one")), content(session, 1)));
        expected.push((place.path(&format!("s{session}/b/two")), content(session, 2)));
        expected.push((place.path(&format!("s{session}/b/three")), format!("{session} 3 ")));
    }
    expected.sort();
    assert_eq!(uploads.len(), expected.len());
    assert!(uploads == expected, "the contents differ");
}

/// One connection after the other, each gone as soon as it has its answer: no file is ever missed.
#[tokio::test]
async fn sixty_times_over() {
    let place = Place::new().await;
    let module = place.path("writer.py");
    std::fs::write(&module, WRITER).unwrap();
    let server = Server::start(&["--handler", &module]);
    for round in 0..60 {
        let [a, b] = ["a", "b"].map(|name| place.path(&format!("r{round}/{name}")));
        let mut client = server.connect("/").await;
        let written = json!({format!("{a}/one"): "1", format!("{b}/two"): "2"});
        let before = json!([{"command": format!("echo 3 > {a}/three")}]);
        let more = json!({"artifacts_dirs": [a, b], "pre_agent_invocation_commands": before});
        client.query_with(&written.to_string(), more).await;
        let frames = with_uploads(&mut client, &place.files, "files").await;
        assert_eq!(announced(&frames), [format!("{a}/one"), format!("{a}/three"), format!("{b}/two")], "round {round}");
        assert_eq!(uploaded(&place.files).len(), 3 * (round + 1));
    }
}

/// The socket is lost while an answer is due: the new one is asked again, and the request ends when its file is there.
#[tokio::test]
async fn a_new_socket_is_asked_again() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/?session=s").await;
    let dir = place.path("out");
    execute(&mut client, &format!("echo one > {dir}/a; echo two > {dir}/b"), std::slice::from_ref(&dir), json!({}))
        .await;
    let asked = [next_request(&mut client).await, next_request(&mut client).await];
    // One of them is answered before the socket is lost.
    client.send(&answer(&place.files, "files", &asked[0])).await;
    eventually("the first upload", || (uploaded(&place.files).len() == 1).then_some(())).await;
    drop(client);
    for _ in 0..2 {
        let mut client = server.connect("/?session=s&after=0").await;
        assert_eq!(next_request(&mut client).await, asked[1]);
    }
    let mut client = server.connect("/?session=s&after=0").await;
    let frames = with_uploads(&mut client, &place.files, "files").await;
    assert_eq!(announced(&frames), [asked[1]["filepath"].as_str().unwrap()]);
    let terminal = &frames.last().unwrap().1;
    assert_eq!(
        (&terminal["message_type"], terminal.get("artifact_failures")),
        (&json!("command_execution_result_message"), None)
    );
    assert_eq!(uploaded(&place.files).len(), 2);
}

/// The same when nothing runs any more; the end of the session waits for the answer.
#[tokio::test]
async fn a_new_socket_is_asked_again_and_ends_the_session() {
    let (server, place) = (Server::start(&["--agent", "echo"]), Place::new().await);
    let mut client = server.connect("/?session=s").await;
    let dir = place.path("out");
    execute(&mut client, "echo begun", std::slice::from_ref(&dir), json!({})).await;
    let frames = with_uploads(&mut client, &place.files, "files").await;
    let seq = frames.last().unwrap().1["seq"].as_u64().unwrap();
    std::fs::write(format!("{dir}/late"), "late").unwrap();
    let asked = next_request(&mut client).await;
    drop(client);
    let mut client = server.connect(&format!("/?session=s&after={seq}")).await;
    assert_eq!(next_request(&mut client).await, asked);
    client.send(&json!({"message_type": "end_session_message"})).await;
    assert_eq!(client.said().await, Vec::<Value>::new(), "the file is waited for");
    client.send(&answer(&place.files, "files", &asked)).await;
    let confirm = client.next().await.unwrap();
    assert_eq!(confirm, json!({"message_type": "end_session_confirm_message"}));
    assert_eq!(uploaded(&place.files), [(format!("{dir}/late"), "late".to_owned())]);
}
