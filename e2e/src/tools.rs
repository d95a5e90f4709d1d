//! Where the programs come from that the tests run: Apache ZooKeeper (by Maven), kazoo (by pip), and our own binaries
//! (by cargo). What is missing is fetched once into a cache folder; what cannot be had is an error, never a skip.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

use crate::report::say;

/// The release that ours is measured against.
pub const APACHE_VERSION: &str = "3.9.5";
const KAZOO: &str = "kazoo==2.11.*";
const DEPENDENCY_PLUGIN: &str =
    "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";

/// Group, artifact and version of what a server needs at run time. All but the first are "provided" in its own pom.
const APACHE_JARS: [[&str; 3]; 5] = [
    ["org.apache.zookeeper", "zookeeper", APACHE_VERSION],
    ["org.slf4j", "slf4j-simple", "2.0.13"],
    ["io.dropwizard.metrics", "metrics-core", "4.1.12.1"],
    ["org.xerial.snappy", "snappy-java", "1.1.10.5"],
    ["commons-cli", "commons-cli", "1.5.0"],
];

/// The Java class path of Apache ZooKeeper, fetched by Maven on the first call.
pub fn apache_class_path() -> Result<&'static str> {
    static PATH: OnceLock<String> = OnceLock::new();
    once(&PATH, || {
        let dir = cache_dir()?.join(format!("apache-zookeeper-{APACHE_VERSION}"));
        provision(&dir, || {
            need("java", "default-jre-headless")?;
            need("mvn", "maven")?;
            say(format!(
                "fetching Apache ZooKeeper {APACHE_VERSION} by Maven"
            ));
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("pom.xml"), pom())?;
            run(Command::new("mvn").current_dir(&dir).args([
                "-B",
                "-q",
                DEPENDENCY_PLUGIN,
                "-DincludeScope=runtime",
                "-DoutputDirectory=lib",
            ]))
        })?;
        need("java", "default-jre-headless")?;
        Ok(format!("{}/*", dir.join("lib").display()))
    })
    .map(String::as_str)
}

/// A Python interpreter that has kazoo, in an environment of its own.
pub fn python() -> Result<&'static Path> {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    once(&PYTHON, || {
        let dir = cache_dir()?.join("python");
        provision(&dir, || {
            need("python3", "python3")?;
            let venv = || {
                run(Command::new("python3")
                    .args(["-m", "venv", "--clear"])
                    .arg(&dir))
            };
            if venv().is_err() {
                install("python3-venv")?;
                venv()?;
            }
            say(format!("fetching {KAZOO} by pip"));
            run(Command::new(dir.join("bin/pip")).args(["install", "--quiet", KAZOO]))
        })?;
        Ok(dir.join("bin/python"))
    })
    .map(PathBuf::as_path)
}

/// Our server's binary: `ZOOKEEPER_NODE`, or else built by cargo in its release profile.
pub fn node() -> Result<&'static Path> {
    static NODE: OnceLock<PathBuf> = OnceLock::new();
    once(&NODE, || own_binary("ZOOKEEPER_NODE", "zookeeper-node")).map(PathBuf::as_path)
}

/// The operator's binary: `ZOOKEEPER_OPERATOR`, or else built by cargo.
pub fn operator() -> Result<&'static Path> {
    static OPERATOR: OnceLock<PathBuf> = OnceLock::new();
    once(&OPERATOR, || {
        own_binary("ZOOKEEPER_OPERATOR", "zookeeper-operator")
    })
    .map(PathBuf::as_path)
}

/// A folder for the data and logs of servers: on the disk of the target folder, never in memory, so that fsync counts.
pub fn work_dir() -> Result<PathBuf> {
    let dir = target_dir()?.join("e2e");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// What faults are made with: namespaces, packet filters, loop mounts. Needs root; Debian's packages are installed where
/// a program is missing.
pub fn fault_tools() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "faults on real processes need root: they make network namespaces and mounts"
    );
    for (program, package) in [
        ("ip", "iproute2"),
        ("tc", "iproute2"),
        ("nft", "nftables"),
        ("mkfs.ext4", "e2fsprogs"),
        ("nsenter", "util-linux"),
        ("fsfreeze", "util-linux"),
        ("mount", "mount"),
    ] {
        need(program, package)?;
    }
    Ok(())
}

fn own_binary(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "{variable} names {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
    build()?;
    Ok(target_dir()?.join("release").join(name))
}

/// Builds both of our programs as they are shipped, once in this process; cargo's own lock keeps other processes out.
fn build() -> Result<()> {
    static BUILT: OnceLock<()> = OnceLock::new();
    once(&BUILT, || {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", target_dir()?);
        // A test's own settings of cargo: some build scripts would be run again for them, and what follows be built anew.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&name);
            }
        }
        cargo.args([
            "build",
            "--release",
            "-p",
            "node",
            "-p",
            "operator",
            "--bins",
        ]);
        say("building zookeeper-node and zookeeper-operator");
        run(&mut cargo)
    })?;
    Ok(())
}

/// Cargo's target folder, in which the running program was built.
fn target_dir() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let profile = program
        .ancestors()
        .find(|dir| dir.ends_with("release") || dir.ends_with("debug"));
    let target = profile.and_then(Path::parent).map(Path::to_path_buf);
    target.with_context(|| format!("{} is in no target folder of cargo", program.display()))
}

fn cache_dir() -> Result<PathBuf> {
    let dir = match std::env::var_os("ZK_E2E_TOOLS") {
        Some(dir) => PathBuf::from(dir),
        None => target_dir()?.join("tools"),
    };
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Runs `fill` unless an earlier call finished it. A lock keeps two processes from filling the same folder.
fn provision(dir: &Path, fill: impl FnOnce() -> Result<()>) -> Result<()> {
    let lock = File::create(dir.with_extension("lock"))?;
    lock.lock()?;
    let done = dir.join("complete");
    if done.is_file() {
        return Ok(());
    }
    fill().with_context(|| format!("cannot fill {}", dir.display()))?;
    fs::write(done, "")?;
    Ok(())
}

fn pom() -> String {
    let dependency = |[group, artifact, version]: &[&str; 3]| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>\n"
        )
    };
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n<modelVersion>4.0.0</modelVersion>\n\
         <groupId>e2e</groupId><artifactId>apache-zookeeper-run</artifactId><version>1</version>\n\
         <dependencies>\n{}</dependencies>\n</project>\n",
        APACHE_JARS.iter().map(dependency).collect::<String>()
    )
}

/// Makes sure that `program` can be run; installs Debian's `package` when this process may.
fn need(program: &str, package: &str) -> Result<()> {
    if on_path(program) {
        return Ok(());
    }
    install(package)?;
    ensure!(
        on_path(program),
        "{program} is missing although the package {package} was installed"
    );
    Ok(())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn install(package: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() || !on_path("apt-get") {
        bail!(
            "the tests need Debian's package {package} (or the same from elsewhere): please install it"
        );
    }
    say(format!("installing {package}"));
    let apt = |args: &[&str]| {
        run(Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(args))
    };
    apt(&["update", "-q"])?;
    apt(&["install", "-q", "-y", "--no-install-recommends", package])
}

/// Runs a command; what it printed is in the error when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        bail!(
            "{command:?} failed ({}):\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
    }
    Ok(())
}

/// `OnceLock::get_or_init` for what can fail. Two threads may both run `make`; `provision` and cargo bear it.
fn once<T>(cell: &'static OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&'static T> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}
