//! Tests of section 6.3: each place alone, all at once, and the cache.

use super::manifest::system;
use super::*;
use proptest::prelude::*;
use tempfile::TempDir;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(dir.path(), name, text);
    }
    dir
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn paths(folders: &[&TempDir]) -> Vec<PathBuf> {
    folders.iter().map(|dir| dir.path().to_owned()).collect()
}

#[test]
fn each_place_alone_and_the_first_of_all() {
    let a = folder(&[
        ("dari.yml", "instructions:\n  system: docs/a.md\n"),
        ("docs/a.md", "from a"),
        ("prompts/system.md", "usual a"),
    ]);
    let b = folder(&[("prompts/system.md", "from b"), ("asked.md", "asked in b")]);
    let file = a.path().join("server.md");
    write(a.path(), "server.md", "from the server");
    let all = paths(&[&a, &b]);

    let found = find(Some("Be brief."), Some(&file), &all);
    assert_eq!((found.text.as_str(), found.source), ("Be brief.", Source::Request));
    let found = find(Some(" asked.md\n"), Some(&file), &all);
    assert_eq!((found.text.as_str(), found.source), ("asked in b", Source::RequestedFile(b.path().join("asked.md"))));
    let found = find(None, Some(&file), &all);
    assert_eq!((found.text.as_str(), found.source), ("from the server", Source::SystemPromptFile(file)));
    let found = find(None, None, &all);
    assert_eq!((found.text.as_str(), found.source), ("from a", Source::Bundle(a.path().join("docs/a.md"))));
    let found = find(None, None, &paths(&[&b, &a]));
    assert_eq!((found.text.as_str(), found.source), ("from b", Source::Bundle(b.path().join("prompts/system.md"))));
    assert!(found.warnings.is_empty());
    let found = find(None, None, &[]);
    assert_eq!((found.text.as_str(), found.source), (DEFAULT, Source::BuiltIn));
    assert_eq!(found.warnings.len(), 1);
}

#[test]
fn texts_that_only_look_like_names() {
    for text in ["Read README.md\nthen answer.", "Write notes.md.", "a.md\nb.md"] {
        assert_eq!(find(Some(text), None, &[]).source, Source::Request, "{text}");
    }
    assert_eq!(find(Some("  \n"), None, &[]).source, Source::BuiltIn);
}

#[test]
fn what_cannot_be_used_is_passed_over() {
    let outside = folder(&[("x.md", "outside")]);
    let a = folder(&[("dari.yml", "instructions: {system: gone.md}\n"), ("prompts/system.md", "usual")]);
    let folders = paths(&[&a]);
    let absolute = outside.path().join("x.md");
    let above = format!("../{}/x.md", outside.path().file_name().unwrap().to_str().unwrap());
    for name in
        ["missing.md", "/etc/x.md", "prompts/../prompts/system.md", absolute.to_str().unwrap(), &above, "a\0.md", ".md"]
    {
        let found = find(Some(name), None, &folders);
        assert_eq!(found.text, "usual", "{name:?}");
        assert_eq!(found.warnings.len(), 2, "{name:?}: {:?}", found.warnings);
    }
    let found = find(None, Some(Path::new("/no/such/file")), &folders);
    assert_eq!((found.text.as_str(), found.warnings.len()), ("usual", 2));
    // A folder is no file, and nor is a blank or a huge one.
    write(a.path(), "prompts/system.md", " \n");
    assert_eq!(find(None, Some(a.path()), &folders).source, Source::BuiltIn);
    write(a.path(), "prompts/system.md", &"x".repeat(1024 * 1024 + 1));
    let found = find(None, None, &folders);
    assert_eq!(found.source, Source::BuiltIn);
    assert!(found.warnings.iter().any(|warning| warning.contains("larger than 1 MiB")));
    write(a.path(), "prompts/system.md", &"x".repeat(1024 * 1024));
    assert_eq!(find(None, None, &folders).text.len(), 1024 * 1024);
}

#[test]
fn a_mark_and_foreign_bytes() {
    let a = folder(&[("prompts/system.md", "\u{feff}Hello")]);
    assert_eq!(find(None, None, &paths(&[&a])).text, "Hello");
    fs::write(a.path().join("prompts/system.md"), b"Hall\xf6chen").unwrap();
    assert_eq!(find(None, None, &paths(&[&a])).text, "Hall\u{fffd}chen");
}

#[test]
fn the_key_in_its_block_form() {
    for manifest in [
        "instructions:\n  system: prompts/a.md\n",
        "name: x\r\ninstructions:\r\n  system: prompts/a.md\r\nllm:\r\n  system: no\r\n",
        "# c\n---\nname: x\ninstructions: # where\n\n    # more\n    other: 1\n    system: \"prompts/a.md\" # here\n",
        "'instructions':\n  nested:\n    system: no\n  \"system\": 'prompts/a.md'",
        "harness: {kind: x, instructions: {system: no}}\nother:\n  instructions:\n    system: no\ninstructions :\n system : prompts/a.md",
    ] {
        assert_eq!(system(manifest).as_deref(), Some("prompts/a.md"), "{manifest}");
    }
}

#[test]
fn the_key_in_its_flow_form() {
    for manifest in [
        "instructions: {system: prompts/a.md}",
        "instructions: { tools: [a, {system: no}], system: prompts/a.md } # c\n",
        "instructions: {\"system\":\"prompts/a.md\", x: 'it''s {, }'}",
        "instructions: {x: \"} \\\" ,\", 'system': 'prompts/a.md'}",
        "instructions: {  # where\n  x: don't,  # more }\n  system: prompts/a.md,\n}\nname: y\n",
    ] {
        assert_eq!(system(manifest).as_deref(), Some("prompts/a.md"), "{manifest}");
    }
    assert_eq!(system("instructions: {system: a b#c.md}").as_deref(), Some("a b#c.md"));
    assert_eq!(system("instructions: {system: \"a, \\u00e9.md\"}").as_deref(), Some("a, é.md"));
}

#[test]
fn manifests_without_the_key() {
    for manifest in [
        "",
        "name: x",
        "instructions:",
        "instructions:\nsystem: no",
        "instructions: text",
        "instructions:\n  system:\n",
        "instructions:\n  system: null",
        "instructions:\n  system: |\n    text",
        "instructions:\n  deeper:\n    system: no\n",
        "instructions: {system: no",
        "instructions: {x: {system: no}}",
        "instructions: {system: }",
        "instructions: {system: 'open}",
        "# instructions: {system: no}",
        "  instructions: {system: no}",
    ] {
        assert_eq!(system(manifest), None, "{manifest}");
    }
}

#[test]
fn a_change_is_seen_after_a_second() {
    let a = folder(&[("prompts/system.md", "one")]);
    let finder = Finder::new(None, paths(&[&a]));
    let start = Instant::now();
    assert_eq!(finder.find_at(None, start).text, "one");
    write(a.path(), "prompts/system.md", "three");
    assert_eq!(finder.find_at(None, start + Duration::from_millis(999)).text, "one");
    assert_eq!(finder.find_at(None, start + Duration::from_secs(1)).text, "three");
    // A file that was not there counts as much as one that was.
    write(a.path(), "dari.yml", "instructions: {system: new.md}");
    write(a.path(), "new.md", "new");
    assert_eq!(finder.find_at(None, start + Duration::from_millis(1_999)).text, "three");
    assert_eq!(finder.find_at(None, start + Duration::from_secs(3)).text, "new");
    assert_eq!(finder.find_at(None, start + Duration::from_secs(5)).text, "new");
}

#[test]
fn warnings_come_once() {
    let a = folder(&[]);
    let finder = Finder::new(None, paths(&[&a]));
    let start = Instant::now();
    assert_eq!(finder.find_at(None, start).warnings.len(), 1);
    assert!(finder.find_at(None, start).warnings.is_empty());
    assert!(finder.find_at(None, start + Duration::from_secs(2)).warnings.is_empty());
    write(a.path(), "prompts/system.md", " ");
    assert_eq!(finder.find_at(None, start + Duration::from_secs(4)).warnings.len(), 1);
}

#[test]
fn names_of_requests_are_kept_apart_and_few() {
    let a = folder(&[("a.md", "a"), ("b.md", "b"), ("prompts/system.md", "usual")]);
    let finder = Finder::new(None, paths(&[&a]));
    assert!(!finder.is_fresh());
    assert_eq!(finder.find(Some("a.md")).text, "a");
    assert_eq!(finder.find(Some("b.md")).text, "b");
    assert_eq!(finder.find(None).text, "usual");
    assert_eq!(finder.find(Some("a.md")).text, "a");
    assert_eq!(finder.find(Some("Be brief.")).source, Source::Request);
    for n in 0..100 {
        assert_eq!(finder.find(Some(&format!("{n}.md"))).text, "usual");
        assert!(finder.lock().len() <= MOST_NAMES);
    }
    assert!(finder.is_fresh());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_manifest_panics(lines in prop::collection::vec(r#"( {0,3}instructions:| {0,3}system:|)[ {}\[\]"',:#\\a-cé]{0,12}"#, 0..8)) {
        let _ = system(&lines.join("\n"));
    }

    #[test]
    fn no_request_panics(request in r".{0,40}(\.md)?") {
        let _ = find(Some(&request), None, &[]);
    }
}
