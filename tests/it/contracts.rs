//! What we promise in the open: `/openapi.json`, `turnhost schema`, the files under `schema/`, and that what was released stays.

use crate::support::{Server, read, repository, server_command, turnhost};
use reqwest::Method;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const METHODS: [&str; 5] = ["get", "head", "post", "put", "delete"];

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The files of a folder by name.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries.map(|path| (name(&path), fs::read_to_string(&path).unwrap())).collect()
}

#[tokio::test]
async fn what_is_committed_is_what_the_program_says() {
    let folder = tempfile::tempdir().unwrap();
    let end = turnhost(&["schema", "--dir", folder.path().to_str().unwrap()]).await;
    assert_eq!((end.code, &*end.stderr), (Some(0), ""));
    let (said, committed) = (files(folder.path()), files(&repository("schema")));
    let names = |all: &BTreeMap<String, String>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&said), names(&committed), "schema/ is stale: run `make schema`");
    assert!(said.len() >= 7, "{:?}", names(&said));
    for (name, text) in &said {
        assert!(committed[name] == *text, "schema/{name} is stale: run `make schema`");
    }
    let printed: Value = serde_json::from_str(&turnhost(&["schema"]).await.stdout).unwrap();
    assert_eq!(printed["openapi"], serde_json::from_str::<Value>(&said["openapi.json"]).unwrap());
    let server = Server::start(&["--agent", "echo"]);
    assert_eq!(server.get("/openapi.json").await.json(), printed["openapi"], "one document");
    let end = turnhost(&["schema", "--dir", "/dev/null/x"]).await;
    assert_eq!(end.code, Some(1), "{}", end.stderr);
}

/// Compares a released shape with today's: what is wrong with today's.
struct Comparison<'a> {
    released: &'a Value,
    current: &'a Value,
    seen: BTreeSet<(String, String)>,
}

impl<'a> Comparison<'a> {
    fn of(released: &'a Value, current: &'a Value) -> Vec<String> {
        let mut comparison = Self { released, current, seen: BTreeSet::new() };
        let mut wrong = Vec::new();
        comparison.any(released, current, "", &mut wrong);
        wrong
    }

    /// Goes where a reference points to; which was followed is told, so that nothing is followed for ever.
    fn resolve(root: &'a Value, mut shape: &'a Value) -> (&'a Value, String) {
        let mut name = String::new();
        while let Some(target) = shape["$ref"].as_str() {
            target.clone_into(&mut name);
            shape = root.pointer(target.trim_start_matches('#')).unwrap_or_else(|| panic!("{target} is not there"));
        }
        (shape, name)
    }

    fn any(&mut self, released: &'a Value, current: &'a Value, at: &str, wrong: &mut Vec<String>) {
        let (released, from) = Self::resolve(self.released, released);
        let (current, to) = Self::resolve(self.current, current);
        if !from.is_empty() && !self.seen.insert((from, to)) {
            return;
        }
        let (Some(was), Some(is)) = (released.as_object(), current.as_object()) else {
            if released != current && !matches!(current, Value::Bool(true)) {
                wrong.push(format!("{at}: {released} became {current}"));
            }
            return;
        };
        for word in ["type", "const", "format"] {
            if was.get(word) != is.get(word) {
                let show = |found: Option<&Value>| found.map_or_else(|| "none".to_owned(), Value::to_string);
                wrong.push(format!("{at}: {word} {} became {}", show(was.get(word)), show(is.get(word))));
            }
        }
        let words = |shape: &'a Map<String, Value>, word: &str| {
            shape.get(word).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
        };
        for gone in words(was, "enum").iter().filter(|value| !words(is, "enum").contains(value)) {
            wrong.push(format!("{at}: the value {gone} is gone"));
        }
        for new in words(is, "required").iter().filter(|name| !words(was, "required").contains(name)) {
            wrong.push(format!("{at}: {new} became required"));
        }
        for (name, released) in was.get("properties").and_then(Value::as_object).into_iter().flatten() {
            match is.get("properties").and_then(|all| all.get(name)) {
                None => wrong.push(format!("{at}/{name} is gone")),
                Some(current) => self.any(released, current, &format!("{at}/{name}"), wrong),
            }
        }
        for word in ["items", "additionalProperties"] {
            match (was.get(word), is.get(word)) {
                (Some(released), Some(current)) => self.any(released, current, &format!("{at}/{word}"), wrong),
                (None, Some(Value::Bool(false))) => wrong.push(format!("{at}: other fields are refused now")),
                _ => {}
            }
        }
        for word in ["anyOf", "oneOf", "allOf"] {
            for (number, released) in words(was, word).iter().enumerate() {
                self.alternative(released, words(is, word), &format!("{at}/{word}[{number}]"), wrong);
            }
        }
    }

    /// One of today's alternatives is the released one.
    fn alternative(&mut self, released: &'a Value, current: &'a [Value], at: &str, wrong: &mut Vec<String>) {
        let mut nearest: Option<Vec<String>> = None;
        for candidate in current {
            let seen = self.seen.clone();
            let mut found = Vec::new();
            self.any(released, candidate, at, &mut found);
            if found.is_empty() {
                return;
            }
            self.seen = seen;
            if nearest.as_ref().is_none_or(|nearest| nearest.len() > found.len()) {
                nearest = Some(found);
            }
        }
        wrong.extend(nearest.unwrap_or_else(|| vec![format!("{at} is gone")]));
    }
}

/// The shapes in a file: each kind of message of a wire, or each shape and operation of the document.
fn shapes(file: &Value) -> Vec<(String, &Value)> {
    match file.get("components") {
        Some(components) => {
            let all = components["schemas"].as_object().unwrap();
            all.iter().map(|(name, shape)| (name.clone(), shape)).collect()
        }
        None if file.get("$schema").is_some() => vec![("the shape".to_owned(), file)],
        None => file.as_object().unwrap().iter().map(|(name, shape)| (name.clone(), shape)).collect(),
    }
}

fn compare(name: &str, released: &Value, current: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let now: BTreeMap<String, &Value> = shapes(current).into_iter().collect();
    let is_document = released.get("components").is_some();
    for (shape, was) in shapes(released) {
        let Some(is) = now.get(&shape) else {
            wrong.push(format!("{name}: {shape} is gone"));
            continue;
        };
        // References of the document start at its root, those of a message at the message.
        let found = if is_document {
            let mut comparison = Comparison { released, current, seen: BTreeSet::new() };
            let mut found = Vec::new();
            comparison.any(was, is, "", &mut found);
            found
        } else {
            Comparison::of(was, is)
        };
        wrong.extend(found.into_iter().map(|text| format!("{name}: {shape}{text}")));
    }
    for (path, operations) in released["paths"].as_object().into_iter().flatten() {
        for (method, was) in operations.as_object().unwrap() {
            let is = &current["paths"][path][method];
            if is.is_null() {
                wrong.push(format!("{name}: {method} {path} is gone"));
                continue;
            }
            for status in was["responses"].as_object().unwrap().keys().filter(|one| is["responses"][*one].is_null()) {
                wrong.push(format!("{name}: {method} {path} answers {status} no more"));
            }
            for old in was["parameters"].as_array().into_iter().flatten() {
                let same = |new: &&Value| new["name"] == old["name"] && new["in"] == old["in"];
                if is["parameters"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(same)
                    .is_none_or(|new| new["schema"] != old["schema"])
                {
                    wrong.push(format!("{name}: {method} {path}: the parameter {} changed", old["name"]));
                }
            }
        }
    }
    wrong
}

#[test]
fn what_was_released_stays() {
    let mut seen = 0;
    for release in fs::read_dir(repository("schema/released")).unwrap() {
        let release = release.unwrap().path();
        for name in files(&release).keys() {
            seen += 1;
            let wrong = compare(name, &read_json(&release.join(name)), &read_json(&repository("schema").join(name)));
            assert!(wrong.is_empty(), "{} promised more:\n  {}", release.display(), wrong.join("\n  "));
        }
    }
    assert!(seen >= 7, "only {seen} released files were found");
}

/// What somebody does to a released shape.
type Change<'a> = &'a dyn Fn(&mut Value);

/// The comparison sees what it is there for.
#[test]
fn a_broken_promise_is_found() {
    let released = read_json(&repository("schema/v1.json"));
    let broken = |change: &dyn Fn(&mut Value)| {
        let mut current = released.clone();
        change(&mut current);
        compare("v1.json", &released, &current)
    };
    assert_eq!(broken(&|_| {}), Vec::<String>::new());
    let turn = |current: &mut Value| current["new_turn"]["properties"].as_object_mut().unwrap().clone();
    assert!(!turn(&mut released.clone()).is_empty());
    let cases: [(&str, Change<'_>); 6] = [
        ("/prompt is gone", &|now| drop(now["new_turn"]["properties"].as_object_mut().unwrap().remove("prompt"))),
        ("type \"string\" became \"integer\"", &|now| {
            now["new_turn"]["properties"]["prompt"]["type"] = json!("integer");
        }),
        ("\"model\" became required", &|now| now["new_turn"]["required"] = json!(["prompt", "model"])),
        ("new_input is gone", &|now| drop(now.as_object_mut().unwrap().remove("new_input"))),
        ("other fields are refused now", &|now| now["turn"]["additionalProperties"] = json!(false)),
        ("is gone", &|now| now["log_entry"]["oneOf"] = json!([])),
    ];
    for (said, change) in cases {
        let found = broken(change);
        assert!(!found.is_empty() && found.iter().any(|text| text.contains(said)), "{said}: {found:?}");
    }
    // More is no breach.
    assert!(broken(&|now| now["new_turn"]["properties"]["more"] = json!({"type": "string"})).is_empty());
    let document = read_json(&repository("schema/openapi.json"));
    let mut current = document.clone();
    current["paths"]["/v1/wake"].as_object_mut().unwrap().remove("post");
    current["components"]["schemas"]["ErrorText"]["properties"]["error"]["type"] = json!("null");
    let found = compare("openapi.json", &document, &current);
    assert!(found.len() >= 2 && found.iter().any(|text| text.contains("post /v1/wake is gone")), "{found:?}");
}

/// Paths of the router, as its source names them.
fn routed() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![repository("src/api")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for call in ["web::resource(\"", "upgrade(\""] {
                found.extend(text.split(call).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
            }
        }
    }
    // Those that can be configured, and the one that belongs to nobody else.
    found.extend(["/health", "/runtime/advance", "/"].map(str::to_owned));
    found
}

#[tokio::test]
async fn every_route_is_told_of_and_everything_told_of_is_there() {
    let document = read_json(&repository("schema/openapi.json"));
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(routed(), paths.keys().cloned().collect(), "the router and the document");
    let server = Server::start(&["--agent", "echo"]);
    // What the parameters stand for.
    let begun =
        read(server.request(Method::POST, "/v1/sessions/s/turns?wait=30").body(r#"{"prompt":"@text hi"}"#)).await;
    let turn = begun.json()["turn"].as_str().unwrap().to_owned();
    let body = json!({"agent": "echo", "interactive": true, "prompt": "hi"});
    let made = read(server.request(Method::POST, "/sessions").body(body.to_string())).await.json();
    let id = made["session_id"].as_str().unwrap().to_owned();
    let mut operations = Vec::new();
    for (path, all) in paths {
        for method in METHODS.iter().filter(|method| all.get(**method).is_some()) {
            operations.push((path, *method, &all[*method]));
        }
    }
    // The end of the session comes last.
    operations.sort_by_key(|(_, method, _)| *method == "delete");
    for (path, method, operation) in operations {
        let target = path.replace("{session}", "s").replace("{turn}", &turn).replace("{id}", &id);
        let body = match path.as_str() {
            "/runtime/advance" => json!({"input": "hi"}),
            "/sessions" => json!({"agent": "echo", "interactive": true, "prompt": "hi"}),
            _ => json!({"prompt": "hi"}),
        };
        let mut request = server.request(method.to_uppercase().parse().unwrap(), &target);
        if operation.get("requestBody").is_some() {
            request = request.body(if path.ends_with("/input") { json!({"text": "x"}) } else { body }.to_string());
        }
        let answer = read(request).await;
        assert!(![404, 405].contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
        let told =
            operation["responses"].get(answer.status.to_string()).or_else(|| operation["responses"].get("default"));
        let told = told.unwrap_or_else(|| panic!("{method} {path}: {} is not told of: {}", answer.status, answer.body));
        let kind = answer.header("content-type").unwrap_or_default().to_owned();
        if let Some(shape) = told.pointer("/content/application~1json/schema")
            && kind.starts_with("application/json")
            && method != "head"
        {
            fits(&document, shape, &answer.json(), &format!("{method} {path}"));
        }
    }
    // Ways that are not told of are not there.
    for (path, all) in paths.iter().filter(|(path, _)| *path != "/") {
        let target = path.replace("{session}", "s").replace("{turn}", &turn).replace("{id}", &id);
        for method in METHODS.iter().filter(|method| all.get(**method).is_none() && **method != "head") {
            let status = read(server.request(method.to_uppercase().parse().unwrap(), &target)).await.status;
            assert!([404, 405].contains(&status), "{method} {path}: {status}, and the document does not tell of it");
        }
    }
    let wrong = read(server.request(Method::POST, "/v1/sessions/s/turns").body("{}")).await;
    fits(&document, &json!({"$ref": "#/components/schemas/ErrorText"}), &wrong.json(), "an error");
    let events = server.get("/v1/sessions/s/events").await.json();
    assert_eq!(events["events"].as_array().unwrap().len(), 3, "accepted, event, ended were held against their shapes");
}

/// Holds a value against a shape of the document.
fn fits(document: &Value, shape: &Value, value: &Value, what: &str) {
    let mut root = document.clone();
    root["shape"] = shape.clone();
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("http://turnhost/openapi.json", root).unwrap();
    let index = compiler.compile("http://turnhost/openapi.json#/shape", &mut schemas).unwrap();
    if let Err(error) = schemas.validate(value, index) {
        panic!("{what}: {error:#}\n{value:#}");
    }
}

/// The list of options is what the program says.
#[tokio::test]
async fn the_options_are_those_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("options.md");
    let end = turnhost(&["schema", "--options", path.to_str().unwrap()]).await;
    assert_eq!((end.code, &*end.stderr), (Some(0), ""));
    let said = fs::read_to_string(&path).unwrap();
    let committed = fs::read_to_string(repository("docs/options.md")).unwrap();
    assert!(said == committed, "docs/options.md is stale: run `make schema`");
    let help = String::from_utf8(server_command(&["--help"]).output().unwrap().stdout).unwrap();
    let options = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    let mut seen = 0;
    for option in options.filter_map(|line| line.split([' ', '=', '[']).next()) {
        seen += 1;
        assert!(said.contains(&format!("`--{option}")), "{option}");
    }
    assert!(seen >= 40, "only {seen} options");
}
