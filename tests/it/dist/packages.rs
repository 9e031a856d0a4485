//! The tarball, the wheel and the Debian package; what the README says of installing; packing itself.

use super::{Place, dist, file, pack, serves, version};
use crate::support::{binary, python, repository};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // Left by a Python that has run a handler.
    names.retain(|name| name != "__pycache__");
    names.sort();
    names
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// A Python with nothing in it, in `venv`. Its pip is that of the tests: a copy of its own takes half a minute of a busy machine.
async fn make_venv(place: &Place) {
    let mut make = place.command(python());
    make.args(["-m", "venv", "--without-pip", "venv"]);
    place.run(make).await;
    let pip = "exec \"$PYTHON\" -m pip --disable-pip-version-check --python \"$(dirname \"$0\")/python\" \"$@\"";
    let pip = pip.replace("\"$PYTHON\"", &format!("'{}'", python().display()));
    write_program(&place.path("venv/bin/pip"), &format!("#!/bin/sh\n{pip}\n"));
}

#[tokio::test]
async fn every_file_has_its_checksum_and_the_version_of_cargo() {
    let place = Place::new();
    let mut packages = 0;
    for name in names(dist()).iter().filter(|name| name.starts_with("turnhost") && !name.ends_with(".sha256")) {
        packages += 1;
        assert!(name.contains(version()), "{name}");
        let mut check = place.command("sha256sum");
        check.args(["-c", &format!("{name}.sha256")]).current_dir(dist());
        assert_eq!(place.run(check).await, format!("{name}: OK\n"));
    }
    assert_eq!(packages, 5);
}

#[tokio::test]
async fn the_tarball() {
    let place = Place::new();
    let mut unpack = place.command("tar");
    unpack.arg("-xzf").arg(file("turnhost-", ".tar.gz"));
    place.run(unpack).await;
    assert_eq!(
        names(&place.path(".")),
        ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "THIRD-PARTY.txt", "handlers", "home", "turnhost"]
    );
    assert_eq!(names(&place.path("handlers")), names(&repository("handlers")));
    // What is in the program is named with its licence; what is in the tests alone is not.
    let others = fs::read_to_string(place.path("THIRD-PARTY.txt")).unwrap();
    assert!(
        others.contains("\nactix-web 4.") && others.contains("\nring 0.") && others.contains("Permission is hereby")
    );
    assert!(!others.contains("\nproptest ") && !others.contains("\nserde_derive "));
    let mut program = place.command(place.path("turnhost"));
    program.env_clear();
    serves(program).await;
}

#[tokio::test]
async fn the_wheel() {
    let place = Place::new();
    let wheel = file("turnhost-", ".whl");
    make_venv(&place).await;
    let mut install = place.command(place.path("venv/bin/pip"));
    install.args(["install", "--quiet", "--no-index"]).arg(&wheel);
    place.run(install).await;
    serves(place.command(place.path("venv/bin/turnhost"))).await;
    let mut module = place.command(place.path("venv/bin/python"));
    module.args(["-m", "turnhost"]);
    let server = serves(module).await;
    let running = fs::read_link(format!("/proc/{}/exe", server.pid())).unwrap();
    assert_eq!(running, place.path("venv/bin/turnhost"), "Python has made room");
    // The path, told by the package; and by one that was moved to a folder of its own.
    let mut ask = place.command(place.path("venv/bin/python"));
    ask.args(["-c", "import turnhost; print(turnhost.get_binary_path())"]);
    assert_eq!(place.run(ask).await.trim(), place.path("venv/bin/turnhost").to_str().unwrap());
    let mut install = place.command(place.path("venv/bin/pip"));
    install.args(["install", "--quiet", "--no-index", "--target", "own"]).arg(&wheel);
    place.run(install).await;
    let mut ask = place.command(python());
    ask.args(["-c", "import turnhost; print(turnhost.get_binary_path())"]).env("PYTHONPATH", place.path("own"));
    assert_eq!(place.run(ask).await.trim(), place.path("own/bin/turnhost").to_str().unwrap());
}

/// What a package says of the systems it is for is what the program asks for.
#[tokio::test]
async fn the_oldest_glibc_is_told() {
    let place = Place::new();
    let mut look = place.command("objdump");
    look.arg("-T").arg(dist().join("program"));
    let table = place.run(look).await;
    let asked = table.split("GLIBC_2.").skip(1).filter_map(|rest| {
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        minor.parse::<u32>().ok()
    });
    let newest = asked.max().expect("versions of glibc");
    let wheel = file("turnhost-", ".whl");
    let expected = format!("-py3-none-manylinux_2_{}_", newest.max(17));
    assert!(wheel.to_str().unwrap().contains(&expected), "{} needs {expected}", wheel.display());
    let mut about = place.command("dpkg-deb");
    about.arg("--field").arg(file("turnhost_", ".deb")).args(["Depends", "Version"]);
    let about = place.run(about).await;
    assert!(about.contains(&format!("Depends: libc6 (>= 2.{newest})")), "{about}");
    assert!(about.contains(&format!("Version: {}\n", version())), "{about}");
}

#[tokio::test]
async fn the_debian_package() {
    let place = Place::new();
    let mut unpack = place.command("dpkg-deb");
    unpack.arg("--extract").args([file("turnhost_", ".deb"), place.path("root")]);
    place.run(unpack).await;
    assert!(place.path("root/usr/share/turnhost/handlers/echo.py").is_file());
    assert!(fs::read_to_string(place.path("root/usr/share/doc/turnhost/copyright")).unwrap().contains("MIT"));
    let mut program = place.command(place.path("root/usr/bin/turnhost"));
    program.env_clear();
    serves(program).await;
}

/// The commands of the README, in their order, by somebody to whom everything belongs: `/usr/local/bin`, pip's and npm's
/// folders and dpkg's root are in the test's. What cargo installs is tested by `make test-dist`.
#[tokio::test]
async fn the_readme_installs() {
    let readme = fs::read_to_string(repository("README.md")).unwrap();
    let section = readme.split("\n## Install\n").nth(1).expect("a section").split("\n## ").next().unwrap();
    let lines: Vec<&str> = section.split("```").nth(1).expect("commands").trim().lines().collect();
    let place = Place::new();
    std::os::unix::fs::symlink(dist(), place.path("dist")).unwrap();
    make_venv(&place).await;
    for folder in ["usr/local/bin", "bin", "root/var/lib/dpkg/updates", "root/var/lib/dpkg/info"] {
        fs::create_dir_all(place.path(folder)).unwrap();
    }
    for empty in ["status", "available"] {
        fs::write(place.path("root/var/lib/dpkg").join(empty), "").unwrap();
    }
    let dpkg =
        "#!/bin/sh\nexec /usr/bin/dpkg --root=\"$ROOT\" --force-not-root --force-depends --log=/dev/null \"$@\"\n";
    write_program(&place.path("bin/dpkg"), dpkg);
    let mut installed = BTreeMap::new();
    for line in lines {
        let at = match line.split(' ').next().unwrap() {
            "tar" => "usr/local/bin/turnhost",
            "pip" => "venv/bin/turnhost",
            "npm" => "npm/bin/turnhost",
            "dpkg" => "root/usr/bin/turnhost",
            "cargo" => continue,
            other => panic!("no way to test {other}"),
        };
        let line = line.replace("/usr/local", place.path("usr/local").to_str().unwrap());
        let mut command = super::npm::npm(&place, "sh");
        let path = format!("{}:{}:", place.path("bin").display(), place.path("venv/bin").display());
        command
            .env("PATH", path + &std::env::var("PATH").unwrap())
            .env("PIP_NO_INDEX", "1")
            .env("ROOT", place.path("root"));
        command.env("npm_config_prefix", place.path("npm")).args(["-c", &line]);
        place.run(command).await;
        serves(place.command(place.path(at))).await;
        installed.insert(at, line);
    }
    assert_eq!(installed.len(), 4, "{installed:?}");
}

#[test]
fn the_same_program_is_packed_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let again = pack(&dist().join("program"), folder.path());
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    for name in names(folder.path()) {
        assert!(fs::read(folder.path().join(&name)).unwrap() == fs::read(dist().join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn what_is_no_program_is_not_packed() {
    let folder = tempfile::tempdir().unwrap();
    let elf = fs::read(binary()).unwrap();
    let mut other = elf[..4096].to_vec();
    other[18] = 0xF3;
    let cases = [("text", b"#!/bin/sh\n".to_vec(), "is not a Linux program of 64 bits"), ("riscv", other, "processor")];
    for (name, content, reason) in cases {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let refused = pack(&path, folder.path());
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains(reason) && said.contains(name) && said.lines().count() == 1, "{said}");
    }
    let missing = Command::new(repository("packaging/build")).env("TURNHOST_BINARY", "/no/such/file").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&missing.stderr), "dist: /no/such/file is not there\n");
}
