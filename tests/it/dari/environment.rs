//! Check 26: where the server can live, and where its instructions come from.

use super::{Dari, Mode, command};
use crate::support::root::Root;
use crate::support::stub::{Stub, script};
use crate::support::{Server, binary, eventually};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user that owns nothing.
const NOBODY: u32 = 65534;

/// No `HOME`, an empty `PATH`, a folder that cannot be written to, and a user who is not root.
async fn bare() {
    let stub = Stub::new();
    let folder = stub.path("read-only");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    // The binary itself may lie where only its builder can read.
    let copy = stub.path("turnhost");
    // By another program: were this one to write it, a test that forks meanwhile would keep it "busy" for the start.
    let copied = Command::new("install").args(["-m", "0755", binary()]).arg(&copy).status().unwrap();
    assert!(copied.success());
    let mut starting = Command::new(&copy);
    starting.args(command(&stub, None, &[]).get_args()).args(["--port", "0"]);
    starting.env_clear().env("PATH", "").current_dir(&folder);
    stub.environment(&mut starting);
    if nix::unistd::geteuid().is_root() {
        starting.uid(NOBODY).gid(NOBODY);
    }
    let dari = Dari::of(Mode::Close, Server::spawn(starting), stub);
    let owner = fs::metadata(format!("/proc/{}", dari.server.pid())).unwrap().uid();
    assert_ne!(owner, 0, "it does not run as root");
    dari.is_healthy().await;
    assert_eq!(dari.turn(&json!({"input": script(&["say hello"])})).await.text, "hello");
    assert!(dari.stub.last_call().system_prompt.is_some_and(|text| !text.trim().is_empty()));
}

/// A place of section 6.3, in a root directory with everything that is not there by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Request,
    Variable,
    /// The file that the `dari.yml` of this folder names.
    Manifest(&'static str),
    /// `prompts/system.md` in this folder.
    Usual(&'static str),
}

/// The folder named by `DARI_SOURCE_BUNDLE_ROOT`, and the working directory.
const NAMED: &str = "/named";
const HERE: &str = "/here";

/// The places, in their order.
fn places() -> Vec<Place> {
    let folders = [NAMED, HERE, "/workspace/.dari/agent-resources/source-bundle", "/bundle", "/workspace"];
    let in_folders = folders.into_iter().flat_map(|folder| [Place::Manifest(folder), Place::Usual(folder)]);
    [Place::Request, Place::Variable].into_iter().chain(in_folders).collect()
}

impl Place {
    /// What stands there.
    fn text(self) -> String {
        format!("Instructions from {self:?}.\nSecond line: \"ü\".\n")
    }
}

/// A server in a root directory. The directory goes last: without it nothing is left of what the server sees.
struct Rooted {
    dari: Dari,
    _root: Root,
}

/// What a stub is given as its instructions if there are some in these places and in no other.
async fn instructions(places: &[Place]) -> (String, Rooted) {
    let (stub, root) = (Stub::new(), Root::new());
    root.make(HERE);
    let mut starting = command(&stub, None, &["--port", "0"]);
    let mut body = json!({"input": "hello"});
    for place in places {
        match place {
            Place::Request => body["instructions"] = place.text().into(),
            Place::Variable => {
                let file = stub.path("system-prompt");
                fs::write(&file, place.text()).unwrap();
                starting.env("TURNHOST_SYSTEM_PROMPT", file);
            }
            Place::Manifest(folder) => {
                root.write(&format!("{folder}/dari.yml"), "name: x\ninstructions:\n  system: texts/agent.md\n");
                root.write(&format!("{folder}/texts/agent.md"), &place.text());
            }
            Place::Usual(folder) => root.write(&format!("{folder}/prompts/system.md"), &place.text()),
        }
    }
    starting.env("DARI_SOURCE_BUNDLE_ROOT", NAMED);
    let server = Server::spawn(root.command(&starting, HERE));
    let dari = Dari::of(Mode::Close, server, stub);
    dari.turn(&body).await;
    (dari.stub.last_call().system_prompt.expect("instructions"), Rooted { dari, _root: root })
}

async fn each_place_and_all() {
    let places = places();
    for (at, place) in places.iter().enumerate() {
        assert_eq!(instructions(&[*place]).await.0, place.text(), "{place:?} alone");
        assert_eq!(instructions(&places[at..]).await.0, place.text(), "{place:?} wins over those after it");
    }
    let (built_in, Rooted { dari, _root }) = instructions(&[]).await;
    assert!(!built_in.trim().is_empty(), "there is a default");
    eventually("a warning", || dari.server.log().contains("WARN").then_some(())).await;
}

/// The keys of a request that hold instructions; and a name of a file, which is looked for in the same folders.
async fn in_the_request() {
    let (_, Rooted { dari, _root }) = instructions(&[Place::Manifest(HERE), Place::Usual(NAMED)]).await;
    let seen = async |more: Value| {
        let mut body = json!({"input": "hello"});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        dari.turn(&body).await;
        dari.stub.last_call().system_prompt.unwrap()
    };
    assert_eq!(seen(json!({"instructions": {"system": "an object"}})).await, "an object");
    assert_eq!(seen(json!({"system": "one word"})).await, "one word");
    assert_eq!(seen(json!({"system_prompt": "two words"})).await, "two words");
    assert_eq!(seen(json!({"system_prompt": "2", "system": "1", "instructions": "0"})).await, "0");
    let file = json!({"instructions": {"system": "texts/agent.md"}});
    assert_eq!(seen(file).await, Place::Manifest(HERE).text());
    assert_eq!(seen(json!({"instructions": "prompts/system.md"})).await, Place::Usual(NAMED).text());
    // A missing file is never an error, and none outside the folders is read.
    for name in ["gone.md", "../etc/passwd.md", "/etc/hostname.md"] {
        assert_eq!(seen(json!({"instructions": name})).await, Place::Usual(NAMED).text(), "{name}");
    }
}

/// A file that was named and is not there is passed over, with a warning.
async fn missing_file() {
    let change = |command: &mut Command| {
        command.env("TURNHOST_SYSTEM_PROMPT", "/nowhere/system.md");
    };
    let dari = Dari::start_with(Mode::Close, &[], change);
    dari.turn(&json!({"input": "hello"})).await;
    assert!(!dari.stub.last_call().system_prompt.unwrap().is_empty());
    eventually("a warning", || dari.server.log().contains("/nowhere/system.md").then_some(())).await;
}

#[tokio::test]
async fn check_26_environment_and_instructions() {
    bare().await;
    tokio::join!(each_place_and_all(), in_the_request(), missing_file());
}
