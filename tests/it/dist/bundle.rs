//! The bundle: `setup.sh` on a bare machine, the command of `dari.yml`, the instructions of the Dockerfiles.

use super::{Place, dist, file};
use crate::support::programs::Finished;
use crate::support::{binary, python, repository};
use std::fs;
use std::path::Path;

/// Runs `setup.sh` with nothing but these variables, in another folder.
async fn setup(place: &Place, variables: &[(&str, &str)]) -> Finished {
    let mut command = place.command("/bin/bash");
    command.arg(repository("setup.sh")).env_clear().current_dir("/");
    command.env("PREFIX", place.path("prefix")).envs(variables.iter().copied());
    place.end(command).await
}

fn checksum(path: &Path) -> String {
    fs::read_to_string(format!("{}.sha256", path.display())).unwrap().split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn setup_takes_a_program_or_a_tarball_twice() {
    let tarball = file("turnhost-", ".tar.gz");
    for given in [binary(), tarball.to_str().unwrap()] {
        let place = Place::new();
        let first = setup(&place, &[("TURNHOST_BINARY", given)]).await;
        assert_eq!(first.code, Some(0), "{first}");
        assert!(first.stdout.contains("installed ") && first.stdout.contains("turnhost 0"), "{first}");
        assert!(place.path("prefix/share/turnhost/handlers/echo.py").is_file());
        let written = fs::metadata(place.path("prefix/bin/turnhost")).unwrap().modified().unwrap();
        let second = setup(&place, &[("TURNHOST_BINARY", given)]).await;
        assert!(second.code == Some(0) && second.stdout.contains("is up to date"), "{second}");
        assert_eq!(fs::metadata(place.path("prefix/bin/turnhost")).unwrap().modified().unwrap(), written);
    }
}

#[tokio::test]
async fn setup_installs_nothing_with_another_checksum() {
    let tarball = file("turnhost-", ".tar.gz");
    let given = [("TURNHOST_BINARY", tarball.to_str().unwrap())];
    let place = Place::new();
    let wrong = setup(&place, &[given[0], ("TURNHOST_SHA256", &"0".repeat(64))]).await;
    assert!(wrong.code == Some(1) && wrong.stderr.contains("another checksum"), "{wrong}");
    assert!(!place.path("prefix").exists());
    let right = setup(&place, &[given[0], ("TURNHOST_SHA256", &checksum(&tarball))]).await;
    assert!(right.code == Some(0) && place.path("prefix/bin/turnhost").is_file(), "{right}");
    // What goes wrong otherwise is said in one sentence, too.
    let cases = [
        (("TURNHOST_BINARY", "/no/such/file"), "is not there"),
        (("TURNHOST_URL", "http://127.0.0.1:9/turnhost.tar.gz"), "needs TURNHOST_SHA256"),
    ];
    for (variable, reason) in cases {
        let refused = setup(&place, &[variable]).await;
        assert!(refused.code == Some(1) && refused.stderr.contains(reason), "{refused}");
        assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
    }
}

#[tokio::test]
async fn setup_downloads_a_release() {
    let tarball = file("turnhost-", ".tar.gz");
    let place = Place::new();
    let site = "import http.server, functools, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
print(server.server_port, flush=True)
server.serve_forever()";
    let mut command = place.command(python());
    command.args(["-c", site]).arg(dist());
    let site = crate::support::programs::Program::start(command);
    let port = crate::support::eventually("the site's port", || site.said().trim().parse::<u16>().ok()).await;
    let url = format!("http://127.0.0.1:{port}/{}", tarball.file_name().unwrap().to_str().unwrap());
    let wrong = setup(&place, &[("TURNHOST_URL", &url), ("TURNHOST_SHA256", &"0".repeat(64))]).await;
    assert!(wrong.code == Some(1) && wrong.stderr.contains(&url), "{wrong}");
    let done = setup(&place, &[("TURNHOST_URL", &url), ("TURNHOST_SHA256", &checksum(&tarball))]).await;
    assert!(done.code == Some(0) && done.stdout.contains("turnhost 0"), "{done}");
}

/// A bundle as it is uploaded, with the program in it; its command as the platform starts it, played by the example.
#[tokio::test]
async fn the_bundle_serves_dari() {
    let place = Place::new();
    let tarball = file("turnhost-", ".tar.gz");
    let done = setup(&place, &[("TURNHOST_BINARY", tarball.to_str().unwrap())]).await;
    assert_eq!(done.code, Some(0), "{done}");
    let manifest = fs::read_to_string(repository("dari.yml")).unwrap();
    let manifest = manifest.replace("/usr/local", place.path("prefix").to_str().unwrap());
    fs::create_dir(place.path("bundle")).unwrap();
    fs::write(place.path("bundle/dari.yml"), manifest).unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut example = place.command(python());
    example.arg(repository("examples/on_dari.py")).args(["Hello", "And again"]);
    example.env("BUNDLE", place.path("bundle")).env("PORT", free.to_string());
    let said = place.run(example).await;
    assert_eq!(said, "Hello | state: {\"turns\": 1}\nAnd again | state: {\"turns\": 2}\n");
}

/// `a.b.c: value` for each line of block YAML without lists.
fn flat(yaml: &str) -> Vec<(String, String)> {
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut found = Vec::new();
    for line in yaml.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()) {
        let indent = line.len() - line.trim_start().len();
        let (key, value) = line.trim().split_once(':').unwrap_or_else(|| panic!("no key in {line:?}"));
        path.retain(|(depth, _)| *depth < indent);
        path.push((indent, key));
        if !value.is_empty() {
            let name = path.iter().map(|(_, key)| *key).collect::<Vec<_>>().join(".");
            found.push((name, value.trim().trim_matches('"').to_owned()));
        }
    }
    found
}

/// The rules of the manifest's fields that concern what ours has; a new field needs a rule here.
#[test]
fn the_manifest_keeps_the_rules_of_its_fields() {
    let manifest = fs::read_to_string(repository("dari.yml")).unwrap();
    let fields = flat(&manifest);
    let is_path = |path: &str| !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    for (name, value) in &fields {
        let is_good = match name.as_str() {
            "name" => !value.is_empty(),
            "harness.kind" => value == "customRuntimeServer",
            "harness.protocol" => value == "dari-runtime-v1",
            // Without a shell and without PATH: the whole path of the program.
            "harness.customRuntimeServer.command" => {
                let words: Vec<&str> = value.split(' ').collect();
                words[0].starts_with('/') && words.contains(&"0.0.0.0") && !value.contains(['"', '\'', '$', '|'])
            }
            "harness.customRuntimeServer.port" => value.parse::<u16>().is_ok_and(|port| port > 0),
            "harness.customRuntimeServer.health_path" | "harness.customRuntimeServer.advance_path" => {
                value.starts_with('/')
            }
            "instructions.system" => is_path(value) && value.contains(".md") && repository(value).is_file(),
            "sandbox.provider" => ["e2b", "modal"].contains(&value.as_str()),
            "sandbox.internet_access" => value == "true" || value == "false",
            "sandbox.runtimes.python" => value.starts_with("3."),
            "sandbox.setup.script" => is_path(value) && repository(value).is_file(),
            "built_in_tools" | "custom_tools" => value == "[]",
            other => {
                let variable = other.strip_prefix("sandbox.env.").unwrap_or_else(|| panic!("no rule for {other}"));
                variable.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
                    && variable.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            }
        };
        assert!(is_good, "{name}: {value}");
    }
    for required in
        ["name", "harness.kind", "harness.protocol", "harness.customRuntimeServer.command", "instructions.system"]
    {
        assert_eq!(fields.iter().filter(|(name, _)| name == required).count(), 1, "{required}");
    }
}

/// A Dockerfile's instructions, with lines that go on joined.
fn instructions(name: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(repository(name)).unwrap().replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').expect("an instruction")).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

/// No image can be built here; so their instructions are known ones, what they copy is there, what they start is understood.
#[tokio::test]
async fn the_dockerfiles() {
    let of_e2b = ["FROM", "RUN", "COPY", "ADD", "WORKDIR", "USER", "ENV", "ARG"];
    let place = Place::new();
    for (name, known) in
        [("Dockerfile", [&of_e2b[..], &["EXPOSE", "ENTRYPOINT", "CMD"]].concat()), ("e2b.Dockerfile", of_e2b.to_vec())]
    {
        let instructions = instructions(name);
        assert_eq!(instructions[0].0, "FROM", "{name}");
        let stages: Vec<&str> =
            instructions.iter().filter(|(word, _)| word == "FROM").map(|(_, rest)| rest.as_str()).collect();
        // E2B refuses a second stage.
        assert_eq!(stages.len(), if name == "Dockerfile" { 2 } else { 1 }, "{name}");
        for (word, rest) in &instructions {
            assert!(known.contains(&word.as_str()), "{name}: {word}");
            match word.as_str() {
                "RUN" => {
                    let mut check = place.command("bash");
                    check.args(["-n", "-c", rest]);
                    place.run(check).await;
                }
                "COPY" if !rest.starts_with("--from=build ") => {
                    let source = rest.split(' ').next().unwrap();
                    // Put there by the command in the file's first lines.
                    assert!(source == "bin" || repository(source).exists(), "{name}: COPY {rest}");
                }
                "ENTRYPOINT" => assert_eq!(rest, r#"["turnhost"]"#),
                "CMD" => {
                    let words: Vec<String> = serde_json::from_str(rest).unwrap();
                    let mut help = place.command(binary());
                    help.args(words).arg("--help");
                    place.run(help).await;
                }
                _ => {}
            }
        }
    }
}
