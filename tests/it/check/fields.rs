//! Mistakes in dari.yml and in the files beside it: each is told with its line, its field and what to do.

use super::{bundle, change, finding, make_executable, run, with_verdict};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What is replaced by what, the line, the field, and what is said.
type Row = (&'static str, &'static str, u64, &'static str, &'static str);

/// Each mistake alone is told alone.
async fn each(check: &str, rows: &[Row]) {
    for (from, to, line, field, message) in rows {
        let folder = bundle("python").await;
        change(folder.path(), "dari.yml", from, to);
        one(folder.path(), check, json!({"file": "./dari.yml", "line": line, "field": field, "message": message}))
            .await;
    }
}

async fn one(folder: &Path, check: &str, mut expected: Value) {
    let end = run(folder, &["check", "--json", "--no-start"]).await;
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((end.code, with_verdict(&report, "differs")), (Some(4), vec![check]), "{expected} {report:#}");
    let places = finding(&report, check)["places"].as_array().unwrap();
    assert_eq!(places.len(), 1, "{places:#?}");
    if let Some(column) = places[0].get("column") {
        expected["column"] = column.clone();
    }
    assert_eq!(places[0], expected);
    // The same for a person.
    let end = run(folder, &["check", "--no-start"]).await;
    let [file, field, message] = ["file", "field", "message"].map(|key| expected[key].as_str().unwrap());
    let line = expected["line"].as_u64().map_or(String::new(), |line| format!(":{line}"));
    let shown = end.stdout.lines().find(|shown| shown.ends_with(message)).unwrap_or_else(|| panic!("{}", end.stdout));
    assert!(shown.trim_start().starts_with(&format!("{file}{line}")) && shown.contains(field), "{shown}");
}

#[tokio::test]
async fn mistakes_about_who_and_how_are_told() {
    let path = "`a?b` is no path of a URL; it begins with a slash, for example `/health`";
    each(
        "manifest-fields",
        &[
            ("\nname: ", "\nnane: x\nname: ", 2, "nane", "unknown field; did you mean `name`?"),
            ("\nname: ", "\n#", 3, "name", "is missing; add it, for example `name: my-agent`"),
            (
                "built_in_tools: []",
                "built_in_tools: [bash, gerp]",
                26,
                "built_in_tools[1]",
                "is `gerp`; did you mean `grep`?",
            ),
            ("built_in_tools: []", "built_in_tools: bash", 26, "built_in_tools", "has to be a list, but is a string"),
            (
                "kind: custom",
                "kind: kustom",
                4,
                "harness.kind",
                "is `kustomRuntimeServer`; did you mean `customRuntimeServer`?",
            ),
            ("runtime-v1", "runtime-v2", 5, "harness.protocol", "has to be `dari-runtime-v1`"),
            (
                "    port: 8787",
                "    prot: 8787\n    port: 8787",
                9,
                "harness.customRuntimeServer.prot",
                "unknown field; did you mean `port`?",
            ),
            (
                "port: 8787",
                "port: \"8787\"",
                9,
                "harness.customRuntimeServer.port",
                "has to be a number, but is the string `8787`; remove the quotes",
            ),
            (
                "port: 8787",
                "port: 49983",
                9,
                "harness.customRuntimeServer.port",
                "49983 is taken in sandboxes of E2B; take another, for example 8787",
            ),
            ("health_path: /health", "health_path: a?b", 10, "harness.customRuntimeServer.health_path", path),
            (
                "advance_path: /runtime/advance",
                "advance_path: /health",
                11,
                "harness.customRuntimeServer.advance_path",
                "is the health path too; give each its own",
            ),
            (
                "system: prompts/system.md",
                "system: /prompts/system.md",
                13,
                "instructions.system",
                "`/prompts/system.md` has to be a path inside the bundle: not absolute, without `.` and `..`",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn mistakes_about_the_sandbox_are_told() {
    let variable = "`lower` is no name for a variable: the name of a variable is made of capitals, digits and underscores, and does not begin with a digit";
    each(
        "manifest-fields",
        &[
            ("provider: e2b", "provider: e2", 15, "sandbox.provider", "is `e2`; did you mean `e2b`?"),
            (
                "provider: e2b",
                "provider: e2b\n  storage_binding: [a]",
                16,
                "sandbox.storage_binding",
                "has to be a string, but is a list",
            ),
            (
                "provider: e2b",
                "provider: modal\n  storage_binding: data",
                16,
                "sandbox.storage_binding",
                "works with the provider `e2b` only; remove it, or change the provider",
            ),
            (
                "internet_access: true",
                "internet_access: yes please",
                17,
                "sandbox.internet_access",
                "has to be `true` or `false`, but is a string",
            ),
            (
                "python: \"3.13\"",
                "python: 3.13",
                19,
                "sandbox.runtimes.python",
                "has to be a string, but is a number; put it in quotes",
            ),
            ("    TURNHOST_LOG", "    lower", 23, "sandbox.env.lower", variable),
            (
                "secrets: []",
                "secrets: [TURNHOST_LOG]",
                25,
                "sandbox.secrets[0]",
                "`TURNHOST_LOG` is in `sandbox.env` too; a secret stands here only",
            ),
            ("secrets: []", "secrets: [A, B, A]", 25, "sandbox.secrets[2]", "`A` is there twice; remove one"),
            (
                "secrets: []",
                "secrets: []\n  resources: {cpu: 2}",
                26,
                "sandbox.resources",
                "its keys are not published; remove it",
            ),
            (
                "secrets: []",
                "secrets: []\n  packages: {atp: [curl]}",
                26,
                "sandbox.packages.atp",
                "unknown field; did you mean `apt`?",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn mistakes_about_models_tools_and_skills_are_told() {
    each(
        "manifest-fields",
        &[
            (
                "built_in_tools: []",
                "model_backend: {provider: openay}",
                26,
                "model_backend.provider",
                "is `openay`; did you mean `openai`?",
            ),
            (
                "built_in_tools: []",
                "llm: {router_id: 7f}",
                26,
                "llm.router_id",
                "`7f` is no id of a router; it begins with `rtr_`",
            ),
            (
                "custom_tools: []",
                "extensions: [{name: a, path: prompts}]",
                27,
                "extensions",
                "are for the harness `pi` only; remove them",
            ),
            (
                "custom_tools: []",
                "custom_tools: [{name: a, path: handler.py}]",
                27,
                "custom_tools[0].path",
                "`handler.py` has to be under `tools/`; move it",
            ),
        ],
    )
    .await;
    each(
        "manifest-files",
        &[(
            "custom_tools: []",
            "skills: [{name: a, path: skills/a}]",
            27,
            "skills[0].path",
            "`skills/a` is not in the bundle; add it, or name another",
        )],
    )
    .await;
}

#[tokio::test]
async fn files_that_are_not_right_are_told() {
    each(
        "manifest-files",
        &[
            (
                "system: prompts/system.md",
                "system: prompts/sytem.md",
                13,
                "instructions.system",
                "`prompts/sytem.md` is not in the bundle; add the file, or name another",
            ),
            (
                "script: setup.sh",
                "script: scripts/setup.sh",
                21,
                "sandbox.setup.script",
                "`scripts/setup.sh` is not in the bundle; add the file, or name another",
            ),
        ],
    )
    .await;
    let folder = bundle("python").await;
    make_executable(&folder.path().join("setup.sh"), 0o644);
    let message = "`setup.sh` is not executable; `chmod +x setup.sh` makes it so";
    one(
        folder.path(),
        "manifest-files",
        json!({"file": "./dari.yml", "line": 21, "field": "sandbox.setup.script", "message": message}),
    )
    .await;
    let folder = bundle("python").await;
    fs::write(folder.path().join("prompts/system.md"), " \n").unwrap();
    let message = "`prompts/system.md` is empty; write the instructions into it";
    one(
        folder.path(),
        "manifest-files",
        json!({"file": "./dari.yml", "line": 13, "field": "instructions.system", "message": message}),
    )
    .await;
    let folder = bundle("python").await;
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("host")).unwrap();
    let message = "is a symbolic link, which the platform refuses; put the file itself there, or let git ignore it";
    one(folder.path(), "manifest-files", json!({"file": "host", "field": "", "message": message})).await;
    fs::write(folder.path().join(".gitignore"), "host\n").unwrap();
    assert_eq!(run(folder.path(), &["check", "--no-start"]).await.code, Some(0));

    let folder = bundle("python").await;
    let text = fs::read_to_string(folder.path().join("dari.yml")).unwrap();
    let without = text.replace("  setup:\n    script: setup.sh\n", "  dockerfile: Dockerfile\n");
    fs::write(folder.path().join("dari.yml"), without.replace("  runtimes:\n    python: \"3.13\"\n", "")).unwrap();
    fs::write(folder.path().join("Dockerfile"), "FROM debian\nCOPY . /workspace\nCMD [\"run\"]\n").unwrap();
    let message = "is run by E2B while the template is built, and its process would be part of it; remove the line, dari.yml has the command";
    one(folder.path(), "manifest-files", json!({"file": "Dockerfile", "line": 3, "field": "CMD", "message": message}))
        .await;
    fs::write(folder.path().join("Dockerfile"), "FROM debian\n").unwrap();
    assert_eq!(run(folder.path(), &["check", "--no-start"]).await.code, Some(0));
    change(folder.path(), "dari.yml", "  dockerfile:", "  runtimes: {}\n  dockerfile:");
    let message = "excludes `sandbox.runtimes`; do that in the Dockerfile, or remove one";
    one(
        folder.path(),
        "manifest-fields",
        json!({"file": "./dari.yml", "line": 19, "field": "sandbox.dockerfile", "message": message}),
    )
    .await;
}

#[tokio::test]
async fn commands_that_cannot_work_are_told() {
    let field = "harness.customRuntimeServer.command";
    each(
        "manifest-command",
        &[
            ("--no-auth", "--no-auth && true", 8, field, "`&&` is for a shell, and the command may be started without one; put it into a script of the bundle"),
            ("command: /usr", "command: A=1 /usr", 8, field, "`A=1` sets a variable as a shell does; put A into `sandbox.env`"),
            ("/usr/local/bin/turnhost", "bin/turnhost", 8, field, "`bin/turnhost` is not in the bundle; add it, or name an absolute path"),
            ("/usr/local/bin/turnhost", "prompts/system.md", 8, field, "`prompts/system.md` is not executable; `chmod +x prompts/system.md` makes it so"),
            ("handler.py", "hander.py", 8, field, "the handler `hander.py` is not in the bundle; add it, or build it first"),
            ("--no-auth", "--no-auth --port 80", 8, field, "`--port 80` hides the variable PORT, by which the platform says the port; remove it"),
            (" --host 0.0.0.0", "", 8, field, "without `--host 0.0.0.0` nothing outside the sandbox reaches the server; add it"),
            (" --no-auth", "", 8, field, "a server that listens to others needs `--no-auth` or a token; the platform sends none, so add `--no-auth`"),
        ],
    )
    .await;
    each("manifest-fields", &[("--no-auth", "--no-auth 'a", 8, field, "has a quote that is never closed; close it")])
        .await;
    let folder = bundle("python").await;
    change(folder.path(), "dari.yml", "--handler handler.py", "--agent claude");
    change(folder.path(), "dari.yml", "internet_access: true", "internet_access: false");
    let message = "the agent `claude` calls its model, but `sandbox.internet_access` is not true; set it";
    one(
        folder.path(),
        "manifest-command",
        json!({"file": "./dari.yml", "line": 8, "field": field, "message": message}),
    )
    .await;
}

/// What cannot be read at all ends with 1.
#[tokio::test]
async fn what_is_no_manifest_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let check = async || {
        let end = run(folder.path(), &["check", "--json"]).await;
        let report: Value = serde_json::from_str(&end.stdout).unwrap();
        let differs = with_verdict(&report, "differs");
        let place = finding(&report, differs[0])["places"][0].clone();
        (end.code, place["line"].clone(), place["message"].as_str().unwrap().to_owned())
    };
    let said = |message: &str| message.to_owned();
    assert_eq!(check().await, (Some(1), json!(null), said("is not there; `turnhost init` writes one")));
    let write = |bytes: &[u8]| fs::write(folder.path().join("dari.yml"), bytes).unwrap();
    write(b"name: \xff\n");
    assert_eq!(check().await, (Some(1), json!(null), said("is not UTF-8; save it so")));
    write(b"name: a\nharness: [pi\n");
    assert_eq!(check().await, (Some(1), json!(2), said("this is no YAML that can be read: unclosed bracket '['")));
    write(b"name: a\nname: b\n");
    let twice = "this is no YAML that can be read: duplicate mapping key `name` is not allowed here";
    assert_eq!(check().await, (Some(1), json!(2), said(twice)));
    write(&vec![b'#'; (1 << 20) + 1]);
    assert_eq!(check().await.0, Some(1));
    write(b"");
    let (code, _, message) = check().await;
    assert_eq!((code, &*message), (Some(4), "the file is empty; `turnhost init` writes a complete one"));
    write(b"- a\n");
    let (code, _, message) = check().await;
    assert_eq!((code, &*message), (Some(4), "has to be a mapping of fields, but is a list"));
}

/// A bundle for the platform's own agent has nothing to start.
#[tokio::test]
async fn a_bundle_of_the_platforms_own_agent_is_only_read() {
    let folder = bundle("python").await;
    let text =
        "name: a\nharness: pi\ninstructions: {system: prompts/system.md}\nllm: {provider: anthropic, model: m}\n";
    fs::write(folder.path().join("dari.yml"), text).unwrap();
    let end = run(folder.path(), &["check", "--json"]).await;
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((end.code, &report["holds"], &report["held"]), (Some(0), &json!(true), &json!(3)), "{report:#}");
    fs::write(folder.path().join("dari.yml"), text.replace("llm:", "#")).unwrap();
    let end = run(folder.path(), &["check"]).await;
    assert!(end.stdout.contains("llm: is missing; add it"), "{}", end.stdout);
}
