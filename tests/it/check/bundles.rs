//! Bundles as they are written: each language passes its check and serves a turn.

use super::{bundle, change, finding, run, with_verdict};
use crate::support::{Server, binary, eventually, finish, repository, server_command, turnhost};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Every check holds, in words and as JSON, and the handler serves the turn that its README speaks of.
async fn works(folder: &Path, handler: &str) {
    let end = run(folder, &["check"]).await;
    assert_eq!((end.code, &*end.stderr), (Some(0), ""), "{}", end.stdout);
    assert!(end.stdout.lines().all(|line| line.is_empty() || line.starts_with("ok") || line.starts_with("all ")));
    assert!(end.stdout.ends_with("checks hold: ./dari.yml\n"), "{}", end.stdout);
    let server = Server::start_with(&["--handler", handler], |command| {
        command.current_dir(folder);
    });
    let answer = server.advance(&json!({"input": "Hello \"you\"\n", "state": {"turns": 4}})).await.json();
    assert_eq!(answer, json!({"text": "You said: Hello \"you\"\n", "state": {"turns": 5}}));
    let mut client = server.connect("/").await;
    client.query("Hello").await;
    let frames = client.until_terminal().await;
    assert_eq!(frames.last().unwrap()["data"]["text"], "You said: Hello", "{frames:?}");
}

#[tokio::test]
async fn a_python_bundle_works_as_written() {
    works(bundle("python").await.path(), "handler.py").await;
}

#[tokio::test]
async fn a_javascript_bundle_works_as_written() {
    works(bundle("javascript").await.path(), "handler.mjs").await;
}

#[tokio::test]
async fn a_shell_bundle_works_as_written() {
    works(bundle("shell").await.path(), "handler.sh").await;
}

/// The one crate that it needs is one of ours, so that nothing has to be fetched, and it is built where ours are.
#[tokio::test]
async fn a_rust_bundle_works_as_written() {
    let folder = bundle("rust").await;
    let end = run(folder.path(), &["check", "--no-start"]).await;
    assert_eq!(end.code, Some(4));
    assert!(
        end.stdout.contains("the handler `bin/agent` is not in the bundle; add it, or build it first"),
        "{}",
        end.stdout
    );
    let mut script = Command::new("./build.sh");
    script.arg("--offline").current_dir(folder.path()).env("CARGO_TARGET_DIR", repository("target/bundle"));
    let built = tokio::task::spawn_blocking(move || script.output().unwrap()).await.unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    works(folder.path(), "bin/agent").await;
}

#[tokio::test]
async fn what_was_written_is_told_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let end = run(folder.path(), &["init", "shell", "my agent/No. 1"]).await;
    let files = ["dari.yml", "setup.sh", "prompts/system.md", "README.md", "handler.sh"];
    let wrote: String = files.map(|file| format!("wrote my agent/No. 1/{file}\n")).concat();
    assert_eq!(end.stdout, format!("{wrote}next: cd 'my agent/No. 1' && turnhost check\n"));
    let bundle = folder.path().join("my agent/No. 1");
    assert!(fs::read_to_string(bundle.join("dari.yml")).unwrap().contains("\nname: no-1\n"));

    // The same again changes nothing; a file that was changed is not overwritten, and neither is any other then.
    assert_eq!(run(&bundle, &["init", "shell", "--name", "no-1"]).await.code, Some(0));
    fs::write(bundle.join("handler.sh"), "mine").unwrap();
    fs::remove_file(bundle.join("setup.sh")).unwrap();
    let end = run(&bundle, &["init", "shell"]).await;
    let sentence = "Error: handler.sh is there already; nothing was written. --force overwrites\n";
    assert_eq!((end.code, &*end.stderr, &*end.stdout), (Some(1), sentence, ""));
    assert_eq!(fs::read_to_string(bundle.join("handler.sh")).unwrap(), "mine");
    assert!(!bundle.join("setup.sh").exists());
    assert_eq!(run(&bundle, &["init", "shell", "--force"]).await.code, Some(0));
    assert_ne!(fs::read_to_string(bundle.join("handler.sh")).unwrap(), "mine");

    let end = turnhost(&["init", "cobol"]).await;
    assert_eq!(end.code, Some(2));
    assert!(end.stderr.contains("[possible values: python, javascript, rust, shell]"), "{}", end.stderr);
}

/// The script of a bundle finds the binary that goes with it.
#[tokio::test]
async fn a_bundle_is_set_up_by_its_script() {
    let folder = bundle("python").await;
    let setup = |prefix: &Path| {
        let mut command = Command::new("bash");
        command.arg(folder.path().join("setup.sh")).env_clear().env("PREFIX", prefix);
        command
    };
    let prefix = folder.path().join("installed");
    let end = finish(setup(&prefix)).await;
    assert_eq!(end.code, Some(1));
    assert!(end.stderr.starts_with("setup: no binary: put one at bin/turnhost"), "{}", end.stderr);
    fs::create_dir(folder.path().join("bin")).unwrap();
    fs::hard_link(binary(), folder.path().join("bin/turnhost"))
        .or_else(|_| fs::copy(binary(), folder.path().join("bin/turnhost")).map(|_| ()))
        .unwrap();
    let end = finish(setup(&prefix)).await;
    assert_eq!(end.code, Some(0), "{}", end.stderr);
    assert!(end.stdout.contains(concat!("turnhost ", env!("CARGO_PKG_VERSION"))), "{}", end.stdout);
    assert!(finish(setup(&prefix)).await.stdout.contains("is up to date"));
}

#[tokio::test]
async fn a_report_fits_its_schema() {
    let schemas: Value = serde_json::from_str(&turnhost(&["schema"]).await.stdout).unwrap();
    let mut compiler = boon::Compiler::new();
    let mut schemas_read = boon::Schemas::new();
    compiler.add_resource("report.json", schemas["report"].clone()).unwrap();
    let schema = compiler.compile("report.json", &mut schemas_read).unwrap();

    let folder = bundle("python").await;
    let end = run(folder.path(), &["check", "--json"]).await;
    let held: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!(
        (end.code, &held["holds"], &held["differed"], &held["skipped"]),
        (Some(0), &json!(true), &json!(0), &json!(0))
    );
    change(folder.path(), "dari.yml", "port: 8787", "port: 0");
    let end = run(folder.path(), &["check", "--json", "--no-start"]).await;
    let differs: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((end.code, with_verdict(&differs, "differs")), (Some(4), vec!["manifest-fields"]));
    let place = json!([{"file": "./dari.yml", "line": 9, "column": 11, "field": "harness.customRuntimeServer.port",
        "message": "is 0; it has to be a number from 1 to 65535"}]);
    assert_eq!(finding(&differs, "manifest-fields")["places"], place);
    for mut report in [held, differs] {
        schemas_read.validate(&report, schema).unwrap_or_else(|error| panic!("{error:#}"));
        report["checks"][0]["verdict"] = json!("perhaps");
        assert!(schemas_read.validate(&report, schema).is_err());
    }
}

/// Another server than ours, found through every door of the command line.
#[tokio::test]
async fn what_to_look_at_is_said_in_three_ways() {
    let folder = bundle("python").await;
    let file = folder.path().join("dari.yml");
    for path in [folder.path(), &file] {
        let end = turnhost(&["check", "--no-start", path.to_str().unwrap()]).await;
        assert_eq!(end.code, Some(0), "{}", end.stdout);
    }
    let end = turnhost(&["check", "--explain", "dari-retry"]).await;
    assert!(end.stdout.starts_with("dari-retry\n\nA platform that lost an answer"), "{}", end.stdout);
    let end = turnhost(&["check", "--explain", "dari-rety"]).await;
    assert_eq!(end.code, Some(1));
    assert!(
        end.stderr.starts_with("Error: there is no check \"dari-rety\"; there are manifest-yaml, "),
        "{}",
        end.stderr
    );
    let end = turnhost(&["check", "--start-within", "soon"]).await;
    assert_eq!((end.code, end.stderr.lines().count()), (Some(1), 1), "{}", end.stderr);
}

/// What a check has started ends with it, also when it is killed.
#[tokio::test]
async fn a_killed_check_leaves_nothing() {
    let folder = bundle("shell").await;
    let pid_file = folder.path().join("pid");
    let script = format!("#!/bin/sh\necho $$ > {}\nexec sleep 1000\n", pid_file.display());
    fs::write(folder.path().join("server.sh"), script).unwrap();
    super::make_executable(&folder.path().join("server.sh"), 0o755);
    let text = fs::read_to_string(folder.path().join("dari.yml")).unwrap();
    let command = text.lines().find(|line| line.contains("command: ")).unwrap();
    let ours = format!("    command: {}", folder.path().join("server.sh").display());
    fs::write(folder.path().join("dari.yml"), text.replace(command, &ours)).unwrap();
    let mut check = server_command(&["check"]);
    let mut check = check.current_dir(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let pid = eventually("the server", || fs::read_to_string(&pid_file).ok()?.trim().parse::<u32>().ok()).await;
    assert!(runs(pid));
    check.kill().unwrap();
    check.wait().unwrap();
    eventually("the server's end", || (!runs(pid)).then_some(())).await;
    let said = BufReader::new(check.stdout.take().unwrap()).lines().count();
    assert_eq!(said, 4, "the checks of the file");
}

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/cmdline")).exists()
}
