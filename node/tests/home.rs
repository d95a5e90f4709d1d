//! `serve --home --id`: which settings and which membership a server starts with.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::PathBuf;

use expect_test::{Expect, expect};
use node::config::home::{Home, claim};
use node::config::{Config, ConfigError, dynamic};
use node_core::zxid::Zxid;

const MOUNTED: &str = "# from the operator\ntickTime=2000\n\ndataDir=DIR\nclientPort=2181\ninitLimit=10\nsyncLimit=5\nreconfigEnabled=true\nserver.1=a:2888:3888\nserver.2=b:2888:3888\nserver.3=c:2888:3888\n";

/// A mounted file and a volume.
struct Volume(tempfile::TempDir);

impl Volume {
    fn new(mounted: &str) -> Self {
        let volume = Self(tempfile::tempdir().unwrap());
        fs::create_dir(volume.dir()).unwrap();
        volume.mount(mounted);
        volume
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn mounted(&self) -> PathBuf {
        self.0.path().join("zoo.cfg")
    }

    fn copy(&self) -> PathBuf {
        self.dir().join("conf/zoo.cfg")
    }

    fn mount(&self, text: &str) {
        let text = text.replace("DIR", self.dir().to_str().unwrap());
        fs::write(self.mounted(), text).unwrap();
    }

    fn plain(&self, text: &str) -> String {
        text.replace(self.dir().to_str().unwrap(), "DIR")
    }

    /// Starts server `id` as far as its configuration, and gives the copy; or what is wrong.
    fn start(&self, id: i64) -> Result<String, ConfigError> {
        claim(&self.mounted(), id)?;
        let home = Home::prepare(&self.mounted(), &self.dir(), Some(id))?;
        Config::read(home.zoo_cfg())?;
        let text = fs::read_to_string(self.copy()).unwrap();
        Ok(self.plain(&text))
    }

    fn fails(&self, id: i64, expected: Expect) -> ConfigError {
        let error = self.start(id).unwrap_err();
        expected.assert_eq(&self.plain(&error.to_string()));
        error
    }

    /// Does what a server does when a reconfiguration is committed.
    fn reconfigure(&self, version: i64, servers: &str) {
        let text = format!("{servers}\nversion={version:x}");
        dynamic::activate(&self.copy(), &text, Zxid(version), false).unwrap();
    }
}

#[test]
fn a_first_start_takes_all_of_the_mounted_file_on_the_same_lines() {
    let volume = Volume::new(MOUNTED);
    expect![[r#"

        tickTime=2000

        dataDir=DIR
        clientPort=2181
        initLimit=10
        syncLimit=5
        reconfigEnabled=true
        server.1=a:2888:3888
        server.2=b:2888:3888
        server.3=c:2888:3888
        quorumListenOnAllIPs=true
    "#]]
    .assert_eq(&volume.start(1).unwrap());
    let my_id = fs::read_to_string(volume.dir().join("myid")).unwrap();
    assert_eq!(my_id, "1\n");
}

#[test]
fn a_later_start_takes_new_settings_and_keeps_the_membership() {
    let volume = Volume::new(MOUNTED);
    volume.start(2).unwrap();
    let servers = "server.1=a:2888:3888:participant\nserver.2=b:2888:3888:participant\nserver.4=d:2888:3888:participant";
    volume.reconfigure(0x1_0000_0005, servers);
    let changed = "tickTime=1000\ndataDir=DIR\nclientPort=2181\ninitLimit=9\nsyncLimit=5\nreconfigEnabled=true\nquorumListenOnAllIPs=false\nserver.1=a:2888:3888\nserver.2=b:2888:3888\n";
    volume.mount(changed);
    let kept = expect![[r#"
        tickTime=1000
        dataDir=DIR
        clientPort=2181
        initLimit=9
        syncLimit=5
        reconfigEnabled=true
        quorumListenOnAllIPs=false
        dynamicConfigFile=DIR/conf/zoo.cfg.dynamic.100000005
    "#]];
    kept.assert_eq(&volume.start(2).unwrap());
    kept.assert_eq(&volume.start(2).unwrap());
    let config = Config::read(&volume.copy()).unwrap();
    let membership = config.quorum.unwrap().membership;
    assert_eq!(membership.version, Zxid(0x1_0000_0005));
    assert_eq!(membership.servers.len(), 3);
}

#[test]
fn a_membership_that_does_not_list_this_server_or_an_observers_own_is_not_kept() {
    let volume = Volume::new(MOUNTED);
    volume.start(3).unwrap();
    volume.reconfigure(0x1_0000_0005, "server.1=a:1:2\nserver.2=b:1:2");
    assert!(
        volume
            .start(3)
            .unwrap()
            .contains("\nserver.3=c:2888:3888\n")
    );

    let observer = MOUNTED.replace("server.3=c:2888:3888", "server.3=c:2888:3888:observer")
        + "peerType=observer\n";
    let volume = Volume::new(&observer);
    volume.start(3).unwrap();
    volume.reconfigure(0x1_0000_0005, "server.1=a:1:2\nserver.3=c:1:2");
    let text = volume.start(3).unwrap();
    assert!(text.contains("\nserver.3=c:2888:3888:observer\n"), "{text}");
    assert!(text.contains("\npeerType=observer\n"), "{text}");
    assert!(!text.contains("dynamicConfigFile"), "{text}");
}

#[test]
fn a_promoted_server_keeps_its_membership_once_the_mounted_file_agrees() {
    let observer = MOUNTED.replace("server.3=c:2888:3888", "server.3=c:2888:3888:observer")
        + "peerType=observer\n";
    let volume = Volume::new(&observer);
    volume.start(3).unwrap();
    volume.reconfigure(0x1_0000_0007, "server.1=a:1:2\nserver.3=c:1:2");
    volume.mount(MOUNTED);
    let text = volume.start(3).unwrap();
    assert!(
        text.ends_with("dynamicConfigFile=DIR/conf/zoo.cfg.dynamic.100000007\n"),
        "{text}"
    );
}

#[test]
fn a_dynamic_file_of_the_mounted_file_is_named_whatever_the_current_folder_is() {
    let mounted = "dataDir=DIR\ninitLimit=10\nsyncLimit=5\ndynamicConfigFile=Cargo.toml\n";
    let volume = Volume::new(mounted);
    Home::prepare(&volume.mounted(), &volume.dir(), Some(1)).unwrap();
    let text = fs::read_to_string(volume.copy()).unwrap();
    let here = std::env::current_dir().unwrap();
    let line = format!("dynamicConfigFile={}/Cargo.toml\n", here.display());
    assert!(text.contains(&line), "{text}");
}

#[test]
fn a_volume_that_is_mounted_elsewhere_still_has_its_membership() {
    let volume = Volume::new(MOUNTED);
    volume.start(1).unwrap();
    volume.reconfigure(0x1_0000_0005, "server.1=a:1:2\nserver.4=d:1:2");
    let copy = fs::read_to_string(volume.copy()).unwrap();
    let before = copy.replace(volume.dir().to_str().unwrap(), "/before");
    assert_ne!(copy, before);
    fs::write(volume.copy(), before).unwrap();
    let text = volume.start(1).unwrap();
    assert!(
        text.ends_with("dynamicConfigFile=DIR/conf/zoo.cfg.dynamic.100000005\n"),
        "{text}"
    );
}

#[test]
fn a_lost_membership_is_damage_and_no_reason_to_take_an_older_one() {
    let volume = Volume::new(MOUNTED);
    volume.start(1).unwrap();
    volume.reconfigure(0x1_0000_0005, "server.1=a:1:2\nserver.4=d:1:2");
    fs::remove_file(volume.dir().join("conf/zoo.cfg.dynamic.100000005")).unwrap();
    let error = volume.fails(
        1,
        expect!["the membership that DIR/conf/zoo.cfg recorded is lost: cannot read DIR/conf/zoo.cfg.dynamic.100000005: No such file or directory (os error 2); this server must not start with an older one: restore the file, or empty this server's directories so that it joins anew"],
    );
    assert!(matches!(error, ConfigError::Storage(error) if error.is_damage()));
}

#[test]
fn the_volume_of_another_server_is_refused_and_left_as_it_is() {
    let volume = Volume::new(MOUNTED);
    volume.start(2).unwrap();
    let before = fs::read_to_string(volume.copy()).unwrap();
    volume.mount(&MOUNTED.replace("2000", "1000"));
    let error = volume.fails(
        3,
        expect![[r#"DIR/myid: it says "2", but --id says that this is server 3: DIR holds the data of another server; give this server its own directory"#]],
    );
    assert!(matches!(error, ConfigError::Problems(_)));
    assert_eq!(fs::read_to_string(volume.copy()).unwrap(), before);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let volume = Volume::new(MOUNTED);
    volume.start(1).unwrap();
    fs::remove_dir_all(volume.dir().join("conf")).unwrap();
    fs::write(volume.dir().join("conf"), "a file is in the way").unwrap();
    let error = volume.fails(
        1,
        expect![
            "cannot make this server's own directory (--home) DIR/conf: File exists (os error 17)"
        ],
    );
    assert!(matches!(error, ConfigError::Storage(error) if !error.is_damage()));
}

#[test]
fn a_home_belongs_to_one_process_at_a_time() {
    let volume = Volume::new(MOUNTED);
    let home = Home::prepare(&volume.mounted(), &volume.dir(), Some(1)).unwrap();
    let error = Home::prepare(&volume.mounted(), &volume.dir(), Some(1)).unwrap_err();
    let words = "conf belongs to another running server";
    assert!(error.to_string().contains(words), "{error}");
    drop(home);
    Home::prepare(&volume.mounted(), &volume.dir(), Some(1)).unwrap();
}

#[test]
fn what_is_wrong_in_the_mounted_file_is_said_with_its_own_line() {
    let volume = Volume::new(&MOUNTED.replace("initLimit=10", "initLimit=ten"));
    volume.fails(
        1,
        expect![[r#"DIR/conf/zoo.cfg:6: initLimit is "ten", but it must be a whole number of ticks from 1 to 2147483647"#]],
    );
}
