//! The examples for platforms run whole, with stand-ins for the SDKs that work on this machine.

use super::{Place, dist};
use crate::support::{binary, python, repository};
use std::fs;

#[tokio::test]
async fn the_platforms_by_stand_ins() {
    let found =
        fs::read_dir(repository("examples")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<String> = found.filter(|name| name.starts_with("on_")).collect();
    found.sort();
    let all = ["on_dari.py", "on_daytona.py", "on_docker.py", "on_e2b.py", "on_modal.py", "on_vercel.py"];
    assert_eq!(found, all);
    let place = Place::new();
    std::os::unix::fs::symlink(dist(), place.path("dist")).unwrap();
    fs::copy(repository("Dockerfile"), place.path("Dockerfile")).unwrap();
    let sdks = repository("tests/it/sdks");
    for name in all.iter().filter(|name| **name != "on_dari.py") {
        let mut example = place.command(python());
        example.arg(repository("examples").join(name)).arg(format!("Hello from {name}"));
        example.env("PYTHONPATH", &sdks).env("PYTHONDONTWRITEBYTECODE", "1").env("TMPDIR", place.path("."));
        // What stands in for docker needs.
        example.env("PATH", format!("{}:{}", sdks.display(), std::env::var("PATH").unwrap()));
        example.env("TURNHOST", binary()).env("REPOSITORY", repository("."));
        // The whole of it: "a sandbox was not given back" would be a second line.
        assert_eq!(place.run(example).await, format!("Hello from {name}\n"), "{name}");
    }
}
