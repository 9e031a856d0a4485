//! What the pages in `docs/` show is what happens: their commands run, their JSON reads, their links lead somewhere.

use crate::support::stub::python;
use crate::support::{Server, binary, repository, server_command};
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

/// Every page that people read, with its path in the repository.
fn pages() -> Vec<(String, String)> {
    let mut names = vec!["README.md".to_owned(), "handlers/README.md".to_owned(), "ARCHITECTURE.md".to_owned()];
    for entry in fs::read_dir(repository("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.split('.').next_back() == Some("md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.sort();
    assert!(names.len() >= 10, "{names:?}");
    names.into_iter().map(|name| (name.clone(), fs::read_to_string(repository(&name)).unwrap())).collect()
}

/// The fenced blocks of a page: language and text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (None, Some((_, text))) => text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block that does not end");
    blocks
}

/// The lines of a page's blocks of commands.
fn commands(page: &str) -> Vec<String> {
    let blocks = blocks(page).into_iter().filter(|(language, _)| matches!(language.as_str(), "" | "sh" | "console"));
    blocks.flat_map(|(_, text)| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn sh(line: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-c", line]).stdin(Stdio::null()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// The heading's name in a link, as the usual renderers make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut seen = 0;
    for (name, page) in &pages {
        let folder = std::path::Path::new(name).parent().unwrap();
        for target in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            seen += 1;
            let (file, fragment) = target.split_once('#').map_or((target, None), |(file, part)| (file, Some(part)));
            let path = if file.is_empty() { repository(name) } else { repository(".").join(folder).join(file) };
            assert!(path.exists(), "{name}: {target} is not there");
            if let Some(fragment) = fragment {
                let text = fs::read_to_string(&path).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let found = headings.map(|line| anchor(line.trim_start_matches('#'))).any(|found| found == fragment);
                assert!(found, "{name}: {target} has no such heading");
            }
        }
    }
    assert!(seen > 20, "only {seen} links were found");
    // Every page is reached from the first one.
    let first = &pages.iter().find(|(name, _)| name == "README.md").unwrap().1;
    for (name, _) in pages.iter().filter(|(name, _)| name != "README.md") {
        assert!(first.contains(&format!("]({name}")), "README.md does not lead to {name}");
    }
}

#[test]
fn every_block_of_json_reads() {
    let mut seen = 0;
    for (name, page) in pages() {
        for (_, text) in blocks(&page).into_iter().filter(|(language, _)| language == "json") {
            seen += 1;
            let read = serde_json::from_str::<serde_json::Value>(&text);
            assert!(read.is_ok(), "{name}: {}\n{text}", read.unwrap_err());
        }
    }
    assert!(seen >= 1, "no JSON was found");
}

/// Every `curl` of a page in its order, against one server with the echo agent. `ID` is the session that was made last.
#[tokio::test]
async fn every_curl_works_as_shown_port_aside() {
    let mut seen = 0;
    for (name, page) in pages() {
        let server = Server::start(&["--agent", "echo"]);
        let mut id = String::new();
        for line in commands(&page).iter().filter(|line| line.starts_with("curl ")) {
            seen += 1;
            let line =
                line.replacen("curl ", "curl --fail-with-body ", 1).replace(":3000", &format!(":{}", server.port));
            let (is_good, said) = sh(&line.replace("/ID", &format!("/{id}")));
            assert!(is_good, "{name}: {line}\n{said}");
            if let Ok(made) = serde_json::from_str::<serde_json::Value>(&said)
                && let Some(made) = made["session_id"].as_str()
            {
                id = made.to_owned();
            }
        }
    }
    assert!(seen >= 5, "only {seen} calls were found");
}

/// Every `turnhost …` that a page shows is one that the command line takes.
#[test]
fn every_command_is_understood() {
    let mut seen = 0;
    for (name, page) in pages() {
        for line in commands(&page) {
            let Some(at) = line
                .find("turnhost ")
                .filter(|at| line[..*at].split(' ').all(|word| word.is_empty() || word.contains('=')))
            else {
                continue;
            };
            seen += 1;
            let arguments = line[at + "turnhost ".len()..].split(" #").next().unwrap();
            // What stands before `--help` is read and checked.
            let (is_good, said) = sh(&format!("env -i {} {arguments} --help", binary()));
            assert!(is_good, "{name}: {line}\n{said}");
        }
    }
    assert!(seen >= 5, "only {seen} commands were found");
}

/// Options that a page names exist.
#[test]
fn every_option_exists() {
    let help = |words: &[&str]| {
        let output = server_command(words).arg("--help").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let top = help(&[]);
    let mut all = top.clone();
    let listed = top.split("Commands:").nth(1).expect("a list of commands");
    for command in listed.lines().skip(1).take_while(|line| line.starts_with("  ")) {
        all.push_str(&help(&[command.split_whitespace().next().unwrap()]));
    }
    let mut named = BTreeSet::new();
    // The page of the checks belongs to commands that print it.
    let of_commands = |name: &str| name != "docs/checks.md" || listed.contains("  check ");
    for (name, page) in pages().into_iter().filter(|(name, _)| name != "handlers/README.md" && of_commands(name)) {
        let words = page.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        // Of other programs: cargo's and uvx's.
        let theirs = ["--release", "--from", "--path", "--features"];
        let words = words.filter(|word| word.starts_with("--") && word.len() > 3 && !theirs.contains(word));
        named.extend(words.map(|word| (word.to_owned(), name.clone())));
    }
    assert!(named.len() >= 30, "{named:?}");
    for (option, page) in named {
        assert!(all.contains(&option), "{page} names {option}, --help does not");
    }
}

/// The picture is XML, shows the eight steps, and the places it names are there.
#[test]
fn the_picture_of_a_turn_is_right() {
    let read = "import sys, xml.etree.ElementTree as tree
for text in tree.parse(sys.argv[1]).iter('{http://www.w3.org/2000/svg}text'):
    print(text.get('class'), ''.join(text.itertext()), sep='\\t')";
    let picture = repository("docs/turn.svg");
    let output = Command::new(python()).args(["-c", read]).arg(&picture).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let of = |class: &str| -> Vec<&str> {
        said.lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(found, _)| *found == class)
            .map(|(_, t)| t)
            .collect()
    };
    let places = of("place");
    assert!(places.len() >= 15, "{places:?}");
    for place in places {
        assert!(
            place.starts_with("src/") && repository(place).exists(),
            "the picture names {place}, which is not there"
        );
    }
    let mut steps = of("number");
    steps.sort_unstable();
    assert_eq!(steps, ["1", "2", "3", "4", "5", "6", "7", "8"]);
    for step in ["Arrive", "Admit", "Claim", "Prepare", "Run", "Say", "Finish", "Answer"] {
        assert!(of("name").contains(&step), "the picture has no step {step}");
    }
    // It stands alone, and pages lead to it.
    let text = fs::read_to_string(picture).unwrap();
    assert_eq!(text.matches("http").count(), 1, "the picture needs something from elsewhere");
    for page in ["ARCHITECTURE.md", "README.md", "docs/hosts.md"] {
        assert!(fs::read_to_string(repository(page)).unwrap().contains("turn.svg)"), "{page} does not lead to it");
    }
}
