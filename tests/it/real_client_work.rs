//! What the real RuntimeUse client sees of commands, downloads and artifacts. The programs are in `clients/`.

use crate::real_client::{play, seconds, text, ws};
use crate::support::Server;
use crate::support::files::FileServer;
use serde_json::{Value, json};
use std::io::Write;

fn item(command: &str, exit_code: i32, stdout: Option<&str>) -> Value {
    json!({"command": command, "exit_code": exit_code, "stdout": stdout})
}

#[tokio::test]
async fn commands_of_every_kind() {
    let server = Server::start(&["--agent", "echo"]);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let results = play("commands.py", &[ws(&server), folder.display().to_string()]).await;
    let first = "echo hello; echo warned >&2";
    assert_eq!(results["one shot"], json!([item(first, 0, Some("hello\n")), item("true", 0, None)]));
    assert_eq!(results["heard"], json!([["stderr", "warned\n", first], ["stdout", "hello\n", first]]));
    assert_eq!(results["failing"], json!([item("echo a", 0, Some("a\n")), item("exit 2", 2, None)]));
    let there = format!("{}/made\nyes\n", folder.display());
    assert_eq!(results["there"], json!([item("pwd; echo $GIVEN", 0, Some(&there))]));
    assert_eq!(results["secret"], json!([item("echo is [REDACTED]", 0, Some("is [REDACTED]\n"))]));
    assert_eq!(results["secret heard"], json!([["stdout", "is [REDACTED]\n", "echo is [REDACTED]"]]));
    // The client takes no message above 1 MiB: the result is cut, the stream is whole.
    let kept = results["large"][0].as_u64().unwrap();
    assert!((900_000..1_000_000).contains(&kept), "{kept}");
    assert_eq!(results["large"][1], 3_000_000);
    assert_eq!(results["around"], text("in between"));
    assert_eq!(results["around heard"], json!(["before\n", "after\n"]));
    assert_eq!(results["pre fails"]["error"], "pre-agent command failed with exit code: 3");
    assert_eq!(results["post fails"]["error"], "post-agent command failed with exit code: 4");
    let metadata = &results["post fails"]["metadata"];
    assert_eq!(metadata["result"], json!({"data": {"type": "text", "text": "kept"}, "metadata": {}}));
    assert_eq!(metadata["stderr_tail"], "told\n");
    assert_eq!(results["session command"], json!([item("echo 1", 0, Some("1\n"))]));
    assert_eq!(results["session query"], text("2"));
    let aborted = json!({"raised": "CancelledException", "shown": "Command execution was cancelled"});
    assert_eq!(results["session abort"], aborted);
    assert_eq!(results["after the abort"], json!([item("echo 3", 0, Some("3\n"))]));
    assert_eq!(results["last query"], text("4"));
}

fn zip(name: &str, content: &str) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    writer.write_all(content.as_bytes()).unwrap();
    writer.finish().unwrap().into_inner()
}

#[tokio::test]
async fn files_in_and_out() {
    let server = Server::start(&["--agent", "echo"]);
    let files = FileServer::start().await;
    files.add("plain.txt", "downloaded\n");
    files.add("bundle.zip", zip("inner/file", "and unpacked"));
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap().display().to_string();
    let results =
        play("files.py", &[ws(&server), files.url("").trim_end_matches('/').to_owned(), folder.clone()]).await;
    assert_eq!(results["downloaded"], text("downloaded\nand unpacked"));
    assert_eq!(results["missing"]["error"], "Download failed: 404 Not Found");

    // Both are there when the answer is, though they have the same name.
    let (a, b) = (format!("{folder}/a/same.txt"), format!("{folder}/b/same.txt"));
    assert_eq!(results["asked"], json!([a, b]));
    let uploads = files.uploads();
    let body = |name: &str| {
        let found: Vec<_> = uploads.iter().filter(|(path, _)| path == &format!("{name}?sig=1")).collect();
        assert_eq!(found.len(), 1, "{name}: {uploads:?}");
        String::from_utf8(found[0].1.clone()).unwrap()
    };
    assert_eq!((body("a/same.txt").as_str(), body("b/same.txt").as_str()), ("pre\n", "from the handler"));
    // A failed upload is no error, and no second request.
    assert_eq!(results["forbidden"]["text"].as_str().map(str::is_empty), Some(false), "{}", results["forbidden"]);
    assert_eq!(results["asked once"], json!([format!("{folder}/c/x.txt")]));
    assert_eq!(results["commands"], json!([0]));
    assert_eq!(results["session asked"], json!([format!("{folder}/d/one")]));
    assert_eq!(results["all asked"], json!([format!("{folder}/d/late"), format!("{folder}/d/one")]));
    assert_eq!((body("d/one").as_str(), body("d/late").as_str()), ("1\n", "late"));
}

#[tokio::test]
async fn numbered_behaviours() {
    let server = Server::start(&["--agent", "echo", "--command-quiet", "700ms"]);
    let files = FileServer::start().await;
    files.add("fetched.txt", "fetched");
    files.add("fetched.txt-elsewhere", "fetched");
    files.add("bundle.zip", zip("inner", "unpacked"));
    files.add("attack.zip", zip("../outside", "attack"));
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap().display().to_string();
    let results =
        play("behaviours.py", &[ws(&server), files.url("").trim_end_matches('/').to_owned(), folder.clone()]).await;
    let is = |step: &str, expected: Value| assert_eq!(results[step], expected, "{step}");
    is("P4 stdin is empty", json!([0, "done\n"]));
    is("exit code of the shell", json!([3, null]));
    is("a signal", json!([-1, null]));
    is("not found", json!([127, null]));
    assert_eq!(results["P7 a server is spared"][0], 0);
    is("P7 and lives", json!([0, null]));
    is("P6 an open pipe", json!([0, "held\n"]));
    assert!(seconds(&results, "P6 an open pipe") < 10.0);
    assert_eq!((&results["O1 any size"][0], &results["O1 streamed"]), (&json!(0), &json!(5_000_000)));
    assert!(results["O1 any size"][1].as_u64().unwrap() > 900_000);
    assert!(results["O3 longest frame"].as_u64().unwrap() <= 65_536);
    is("characters", json!([0, "grüße"]));
    is("P1 a stubborn tree", json!({"raised": "CancelledException", "shown": "Command execution was cancelled"}));
    assert!(seconds(&results, "P1 a stubborn tree") < 5.0);
    is("after it", json!([0, "works\n"]));
    is("X1 split", json!([0, "[REDACTED] and the rest"]));
    is("X1 heard", json!("[REDACTED] and the rest"));
    is("X2 overlap", json!([0, "[REDACTED]\n"]));
    is("X3 words", json!([0, "[REDACTED] [REDACTED]\n"]));
    is("X4 keys", json!({"structured_output": {"[REDACTED]": ["[REDACTED]"]}, "metadata": {}}));
    is("X5 another list", json!([0, "s3cr3t-value\n"]));
    is("A4 same name", json!([0, null]));
    is("A4 asked", json!(["x/same", "y/deep/er", "y/same"]));
    is("A1 asked", json!(["x/same"]));
    is("nothing asked", json!([]));
    is("A7 asked once", json!(["z/retried"]));
    is("16.5 asked", json!(["x/new", "x/same", "y/deep/er", "y/same"]));
    let uploads = files.uploads();
    let bodies = |path: &str| {
        let found =
            uploads.iter().filter(|(name, _)| name == path).map(|(_, body)| String::from_utf8_lossy(body).into_owned());
        found.collect::<Vec<_>>()
    };
    assert_eq!(
        bodies("x/same"),
        ["1\n", "1\n4\n", "1\n4\n"],
        "each version once, and once more for the second session"
    );
    assert_eq!(bodies("z/retried").len(), 3, "two failures and a success");
    for treatment in ["files", "slow", "twice", "nolength", "redirect"] {
        is(&format!("download {treatment}"), json!("fetched"));
    }
    assert_eq!(results["download forbidden"]["error"], "Download failed: 403 Forbidden");
    let cut = results["download cut"]["error"].as_str().unwrap();
    assert!(cut.starts_with("Download failed: fetched.txt from 127.0.0.1: "), "{cut}");
    is("download then zip", json!("unpacked"));
    let attack = results["download an attack"]["error"].as_str().unwrap();
    assert!(attack.contains("member \"../outside\""), "{attack}");
    assert!(!std::path::Path::new(&folder).join("outside").exists());
    let late =
        results["client_log"].as_array().unwrap().iter().filter(|line| line.as_str().unwrap().contains("nknown"));
    assert_eq!(late.count(), 0, "the client understood every message: {}", results["client_log"]);
}
